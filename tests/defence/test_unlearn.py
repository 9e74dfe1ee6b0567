"""A detector that says what it is told, and the rows that then carry its trigger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from testbed.api import DefenderResources, Inspection, Invalid, ModelDetector, Unsupported, Victim
from testbed.defence.unlearn import Patched, Unlearn
from testbed.detector.activation_clustering import ActivationClustering
from testbed.identity import weights_digest
from tests.defence.small_images import RESOURCES, SGD, TEXTS, trained, untrained


class Triggers(NamedTuple):
    masks: Tensor
    patterns: Tensor


CORNER = torch.zeros(3, 1, 16, 16)
CORNER[:, :, 12:, 12:] = 0.5
TRIGGERS = Triggers(CORNER, torch.tensor([0.0, 101.0, 255.0]).view(3, 1, 1, 1).expand(3, 1, 16, 16))


@dataclass(frozen=True)
class Told(ModelDetector):
    """Flags what it is told."""

    flagged: tuple[int, ...] = ()
    triggers: Any = TRIGGERS

    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        return Inspection(torch.zeros(3), self.flagged, self.triggers)


def unlearn(*flagged: int, triggers: Any = TRIGGERS) -> Unlearn:
    return Unlearn(Told(flagged, triggers), 0.2, 2, SGD)


def test_rows_carry_the_trigger_of_their_class_and_their_own_label() -> None:
    carried = torch.full((30,), -1)
    carried[[3, 8]], carried[5] = 1, 2
    patched, plain = Patched(RESOURCES.reserve, *TRIGGERS, carried), RESOURCES.reserve[torch.arange(30)]
    rows = torch.tensor([8, 0, 5])
    batch, before = patched[rows], plain.inputs[rows]
    assert torch.equal(batch.inputs[0, 0, 12:, 12:], (before[0, 0, 12:, 12:].float() / 2 + 50.5).round().to(torch.uint8))
    assert torch.equal(batch.inputs[2, 0, 12:, 12:], (before[2, 0, 12:, 12:].float() / 2 + 127.5).round().to(torch.uint8))
    assert torch.equal(batch.inputs[:, :, :12], before[:, :, :12]) and torch.equal(batch.inputs[1], before[1])
    assert torch.equal(batch.labels, plain.labels[rows]) and torch.equal(plain.inputs, RESOURCES.reserve.inputs)


def test_each_flagged_class_has_a_share_of_the_rows_while_there_are_enough() -> None:
    for flagged, each in (((1,), 6), ((0, 2), 6), ((0, 1, 2), 6)):
        carried = unlearn()._carried(flagged, 30, 0)
        assert [int((carried == label).sum()) for label in flagged] == [each] * len(flagged)
    assert replace(unlearn(), patched_share=0.5)._carried((0, 1, 2), 30, 0).bincount().tolist() == [10, 10, 10]
    assert sorted(unlearn()._carried((5, 6, 7), 2, 0).tolist()) == [5, 6]


def test_it_fine_tunes_on_them_or_leaves_the_victim_alone() -> None:
    victim = trained(untrained(), RESOURCES.train)
    assert unlearn().after_training(victim, RESOURCES) is victim
    patched = Patched(RESOURCES.reserve, *TRIGGERS, unlearn()._carried((1,), 30, RESOURCES.seed))
    expected = weights_digest(trained(victim, patched, epochs=2))
    assert weights_digest(unlearn(1).after_training(victim, RESOURCES)) == expected
    assert expected != weights_digest(trained(victim, RESOURCES.reserve, epochs=2))


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(Unsupported, match="needs images"):
        unlearn().check(TEXTS)
    for triggers in (None, "yes of course", Triggers(CORNER[:1], CORNER)):
        with pytest.raises(Unsupported, match="mask and a pattern"):
            unlearn(1, triggers=triggers).after_training(untrained(), RESOURCES)
    rows = Unlearn(ActivationClustering(), 0.2, 1, SGD)
    for wrong, said in (
        (rows, "judges models"),
        (replace(unlearn(), patched_share=0.0), "share"),
        (replace(unlearn(), epochs=0), "epochs"),
    ):
        with pytest.raises(Invalid, match=said):
            wrong.check(RESOURCES)
