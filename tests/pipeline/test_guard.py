"""Methods are watched at work: faults are told by their names, refusals stay refusals, and nothing is left disturbed."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from testbed.api import Batch, Defence, DefenderResources, Detector, Examples, Inspection, Invalid, ModelDetector, Victim
from testbed.contract.watch import random_states
from testbed.files import read_json
from testbed.pipeline.detect import detect
from testbed.pipeline.guard import _mark
from testbed.pipeline.run import PIPELINES

from .conftest import World


@dataclass(frozen=True)
class Seeds(Defence):
    """Seeds everything that there is."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        return victim


def test_global_generators_are_put_back(world: World) -> None:
    world()  # from here on nothing has to be trained or imported
    before = random_states()
    found = read_json(world(defence=Seeds()) / "result.json")
    assert random_states() == before
    assert "drew from or seeded the global generator of torch and NumPy and Python; draw from a" in found["reason"]


@dataclass(frozen=True)
class Refuses(Defence):
    """Finds out late that a parameter cannot work."""

    strength: float = 2.0

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        raise Invalid("strength", self.strength, "must be at most 1")


def test_a_refusal_stays_one(world: World) -> None:
    with pytest.raises(Invalid, match=r"strength=2.0: must be at most 1"):
        world(defence=Refuses())


class Growing:
    """Rows of which there are more than are given when they are asked for."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: Tensor) -> Batch:
        batch = self.examples[torch.cat([indices, indices[:1]])]
        return Batch(batch.inputs, batch.labels, indices)


@dataclass(frozen=True)
class Grows(Defence):
    """Gives other rows back than are asked for."""

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        return Growing(received)


@dataclass(frozen=True)
class Wraps(Defence):
    """Wraps the untrained model, so that training fails in the defence's own code."""

    def during_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        class Lossless(type(victim)):  # type: ignore[misc]
            def loss(self, batch: Batch) -> Tensor:
                return self.nothing

        victim.__class__ = Lossless
        return victim


@pytest.mark.parametrize(
    ("defence", "reason"),
    [
        (Grows(), r"Grows \(test_guard.py\): before_training's rows come in other numbers than asked for; choose rows with"),
        (Wraps(), r"Wraps \(test_guard.py, line \d+\): AttributeError: 'Lossless' object has no attribute 'nothing'"),
    ],
)
def test_a_defence_that_acts_in_training_is_named(defence: Defence, reason: str, world: World) -> None:
    found = read_json(world(defence=defence) / "result.json")
    assert found["status"] == "failed"
    assert re.search(reason, found["reason"]), found["reason"]


@dataclass(frozen=True)
class Short(Detector):
    """Forgets a row."""

    judges: ClassVar[frozenset[str]] = frozenset({"rows"})

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        return torch.zeros(len(examples) - 1)


@dataclass(frozen=True)
class Prunes(ModelDetector):
    """Looks into a model with a knife."""

    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        with torch.no_grad():
            next(victim.parameters()).zero_()
        return Inspection(torch.zeros(10), ())


@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        (Short(), "Short (test_guard.py): TypeError: Short.score must return one finite float a row, not torch.float32 (199,)"),
        (Prunes(), "Prunes (test_guard.py): inspect changed the model that it is given; work on a copy"),
    ],
)
def test_a_detector_is_named(detector: Any, reason: str, world: World) -> None:
    parts = {name: part for name, part in world.parts.items() if name != "defence"}
    found = read_json(detect(**parts, detector=detector) / "result.json")
    assert found["status"] == "failed" and found["reason"].startswith("detector ") and reason in found["reason"], found


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float16, torch.float32, torch.float64])
def test_anything_written_is_noticed(dtype: torch.dtype) -> None:
    for shape in ((), (3,), (2, 5)):
        module = torch.nn.Module()
        module.register_buffer("value", torch.zeros(shape, dtype=dtype))
        before = _mark(module)
        assert _mark(module) == before
        module.value.view(-1)[-1] = 1
        assert _mark(module) != before


def test_watching_imports_nothing_that_training_would_have_to() -> None:
    asked = "import sys, testbed.pipeline.train; sys.exit('pytorch_lightning' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", asked], cwd=root, check=False).returncode == 0
    assert not any("guard" in name for names in PIPELINES.values() for name in names), "it changes no number"
