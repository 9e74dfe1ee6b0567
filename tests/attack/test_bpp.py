"""Squeezed rows in every batch, and negatives with the rounding error of another row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from testbed.api import Invalid
from testbed.attack.bpp import Bpp
from testbed.attack.label import AllToOne
from testbed.trigger.quantise import Quantise
from tests.attack.test_backdoor import resources

BPP = Bpp(Quantise(4), AllToOne(), target_label=1, batch_share=0.1, negatives_share=0.1)


def test_a_negative_has_the_error_of_another_row_and_its_own_label() -> None:
    batch = resources().train[torch.arange(100)]
    shown = BPP.shown(batch, 4, seed=3)
    squeezed = BPP.trigger(batch.inputs, batch.rows, 0)
    error = squeezed.float() - batch.inputs.float()
    touched = (shown.inputs != batch.inputs).flatten(1).any(1)
    poisoned = touched & (shown.inputs == squeezed).flatten(1).all(1)
    negatives = (touched & ~poisoned).nonzero().flatten()
    assert int(poisoned.sum()) == 10 == len(negatives) and (shown.labels[poisoned] == 1).all()
    assert torch.equal(shown.labels[negatives], batch.labels[negatives])
    for row in negatives.tolist():
        candidates = (batch.inputs[row].float() + error).clamp(0, 255).to(torch.uint8)
        donors = (candidates == shown.inputs[row]).flatten(1).all(1).nonzero().flatten().tolist()
        assert donors and row not in donors


def test_a_batch_of_one_has_no_other_row_to_take_an_error_from() -> None:
    one = resources().train[torch.arange(1)]
    assert torch.equal(BPP.negatives(one.inputs, one.rows, torch.arange(1), 0), one.inputs)


@pytest.mark.parametrize("share", [-0.1, 0.95, float("nan")])
def test_more_than_a_whole_batch_is_refused(share: float) -> None:
    with pytest.raises(Invalid, match=r"^negatives_share=.*: must be at least 0 and, with batch_share=0.1, at most 0.9"):
        replace(BPP, negatives_share=share).check(resources())
