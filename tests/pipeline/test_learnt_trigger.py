"""Exams of an attacker who controls training are set anew after it: a trigger that is learnt there can be examined."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from testbed.api import AttackerResources, Batch, Examples, Invalid, Poison, Victim
from testbed.attack.backdoor import Backdoor
from testbed.attack.stamping import StampedTraining
from testbed.defence.fine_tuning import FineTuning
from testbed.detector.activation_clustering import ActivationClustering
from testbed.features import all_labels
from testbed.files import read_json
from testbed.pipeline.detect import detect
from testbed.pipeline.evaluate import evaluate

from .conftest import SGD, World
from .test_measures import like

SEEN: list[Any] = []
"""The trained victims that the attacker was shown."""


class Shade(nn.Module):
    """The first rows of an image get a brightness that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.brightness = nn.Parameter(torch.tensor(0.5))

    def forward(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        shade = (255 * self.brightness.clamp(0, 1)).expand_as(inputs[..., :4, :])
        return torch.cat([shade, inputs.float()[..., 4:, :]], dim=-2).to(inputs.dtype)


class FloatTraining(StampedTraining):
    """Stamps floating-point copies, through which a gradient flows."""

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch._replace(inputs=batch.inputs.float()))


class Learns(Backdoor):
    """Learns its trigger with the victim."""

    @property
    def controls_training(self) -> bool:
        return True

    def during_training(self, victim: Victim, resources: AttackerResources) -> Victim:
        assert resources.positions is not None
        return FloatTraining(victim, Shade(), resources.positions, 0)

    @torch.no_grad()
    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        if resources.trained is None:
            return {}
        SEEN.append(resources)
        rows = (all_labels(test) != self.target_label).nonzero().flatten()
        shown = resources.trained.trigger(test[rows].inputs, rows, 0)  # type: ignore[operator]
        return {"success": Poison(rows, Batch(shown, torch.full_like(rows, self.target_label), rows))}


def test_defended_and_undefended_are_examined_by_what_training_taught_the_wrapped_victim(world: World) -> None:
    SEEN.clear()
    first = world(attack=like(Learns, world))
    second = world(attack=like(Learns, world), defence=FineTuning(1, SGD))
    assert len(world.made(first)) == 2 == len(world.reused(second)), "the second time the wrapped victim is read from disk"
    shades = [resources.trained.trigger.brightness.item() for resources in SEEN]
    assert len(shades) == 2 and shades[0] == shades[1] != 0.5
    assert all(len(resources.positions) == len(resources.poison.indices) == 20 for resources in SEEN)
    found = [read_json(folder / "result.json")["measures"] for folder in (first, second)]
    assert found[0]["attack_success_rate"] == found[1]["undefended_attack_success_rate"]
    for folder in (first, second):
        answers = load_file(folder / "answers.safetensors")
        assert torch.equal(answers["success.rows"], answers["undefended_success.rows"]) and len(answers["success.rows"]) > 0


def test_detectors_meet_the_same_exams(world: World) -> None:
    world.parts.pop("defence")
    folder = world(detect, attack=like(Learns, world), detector=ActivationClustering("penultimate", 4, 0.35))
    assert read_json(folder / "result.json")["counts"]["attack_success_rate"] > 0


def test_a_saved_victim_alone_is_not_examined_by_a_trigger_that_nobody_kept(world: World) -> None:
    world(attack=like(Learns, world))
    weights = next((world.outputs / "victim").glob("*/model.safetensors"))
    world.parts.pop("defence")
    model = partial(world.parts["model"], weights=str(weights))
    with pytest.raises(Invalid, match=r"learns its trigger with the victim, .*; say runs=FOLDER of its runs"):
        world(evaluate, attack=like(Learns, world), model=model, runs=None)
