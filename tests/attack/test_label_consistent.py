"""Label-consistent poison: the ascent, which rows, what a surrogate thinks of them; and projected gradients by themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from testbed.api import AttackerResources, Examples, Invalid, Victim
from testbed.attack.label_consistent import LabelConsistent
from testbed.fit import fit
from testbed.model.image import ImageVictim
from testbed.numerics.pgd import pgd
from testbed.numerics.trigger_inversion import frozen
from testbed.trigger.corners import Corners
from tests.attack.test_backdoor import resources, rows
from tests.attack.test_optimised_trigger import SETTINGS, surrogate

ATTACK = LabelConsistent(Corners(size=1), poison_rate=0.1, target_label=1, max_change=8.0, steps=5, adversarial_steps=0)


def trained(victim: Victim, examples: Examples, *, loss: Any = None) -> Victim:
    return fit(victim, examples, settings=SETTINGS, seed=0, loss=loss)[0]


def attacker() -> AttackerResources:
    return replace(resources(), fresh=surrogate, fit=trained)


def test_a_linear_loss_sends_every_pixel_to_its_bound_or_to_the_end_of_the_scale() -> None:
    weight = torch.tensor([[[-1.0, 1.0], [1.0, 0.0]]])
    images = torch.tensor([[[[10.0, 10.0], [250.0, 10.0]]], [[[3.0, 10.0], [10.0, 10.0]]]])
    found = pgd(lambda inputs: (inputs * weight).flatten(1).sum(1), images, max_change=8, steps=5, step_size=2)
    assert found.tolist() == [[[[2.0, 18.0], [255.0, 10.0]]], [[[0.0, 18.0], [18.0, 10.0]]]]
    start = pgd(lambda x: x, images, max_change=8, steps=0, step_size=2, generator=torch.Generator().manual_seed(0))
    assert 0 < (start - images).abs().max() <= 8 and start.min() >= 0 and start.max() <= 255


@pytest.mark.parametrize("adversarial_steps", [0, 2])
def test_rows_of_the_target_class_are_moved_within_the_bound_and_keep_their_label(adversarial_steps: int) -> None:
    mine, attack = attacker(), replace(ATTACK, adversarial_steps=adversarial_steps)
    poison, other = attack.poison(mine), attack.poison(attacker())
    clean = mine.train[poison.indices]
    assert torch.equal(poison.batch.inputs, other.batch.inputs) and poison.batch.inputs.dtype == torch.uint8
    assert (clean.labels == 1).all() and torch.equal(poison.batch.labels, clean.labels) and len(clean.labels) == 10
    inner = (..., slice(1, -1), slice(1, -1))
    moved = poison.batch.inputs[inner].int() - clean.inputs[inner].int()
    assert 0 < moved.abs().max() <= 8
    assert torch.equal(poison.batch.inputs, Corners(size=1)(poison.batch.inputs, clean.rows, 0)), "the corners come last"


def test_the_surrogate_takes_the_moved_rows_for_their_class_less() -> None:
    mine = attacker()
    model = mine.fit(mine.fresh(), mine.train)
    clean = mine.train[(mine.train.labels == 1).nonzero().flatten()]
    with frozen(model):
        before, after = (
            cross_entropy(model(inputs), clean.labels) for inputs in (clean.inputs, ATTACK._ascended(model, clean, 5))
        )
    assert after > before


def test_the_surrogate_is_trained_on_the_worst_images_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[Any] = []

    def fit_with(victim: Victim, examples: Examples, *, loss: Any = None) -> Victim:
        losses.append(loss)
        return trained(victim, examples, loss=loss)

    mine = replace(attacker(), fit=fit_with)
    ATTACK.poison(mine)
    replace(ATTACK, adversarial_steps=3).poison(mine)
    assert losses[0] is None and losses[1] is not None
    model, clean, learnt = trained(surrogate(), mine.train).eval(), mine.train[torch.arange(20)], list[torch.Tensor]()
    loss_of = ImageVictim.loss_of

    def watched(self: ImageVictim, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        learnt.append(images)
        return loss_of(self, images, labels)

    monkeypatch.setattr(ImageVictim, "loss_of", watched)
    worse = losses[1](model, clean)
    change = (learnt[0] - clean.inputs).abs()
    assert change.max() <= 8 + 1e-4 and (change.flatten(1).amax(1) > 1).all()
    assert worse > loss_of(model, clean.inputs.float(), clean.labels)


def test_stored_rows_keep_within_a_bound_that_is_no_whole_number() -> None:
    mine = attacker()
    poison = replace(ATTACK, max_change=7.5).poison(mine)
    inner = (..., slice(1, -1), slice(1, -1))
    moved = poison.batch.inputs[inner].int() - mine.train[poison.indices].inputs[inner].int()
    assert moved.abs().max() == 7


def test_without_steps_nothing_is_trained_and_the_rows_are_stamped_as_they_are() -> None:
    mine: AttackerResources = resources()  # whose `fit` is None
    poison = replace(ATTACK, steps=0).poison(mine)
    assert torch.equal(poison.batch.inputs, Corners(size=1)(mine.train[poison.indices].inputs, poison.indices, 0))


def test_the_exam_shows_the_corners_and_nothing_else() -> None:
    test = rows(40, seed=5)
    exam = ATTACK.triggered_tests(test, resources())["success"]
    assert (test.labels[exam.indices] != 1).all() and (exam.batch.labels == 1).all()
    assert torch.equal(exam.batch.inputs, Corners(size=1)(test[exam.indices].inputs, exam.indices, 0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": -1}, "steps=-1: must be at least 0"),
        ({"adversarial_steps": -1}, "adversarial_steps=-1: must be at least 0"),
        ({"max_change": 0.0}, "max_change=0.0: must be above 0"),
        (
            {"max_change": 0.4},
            "max_change=0.4: rows are stored in whole grey levels, so that none would change; say at least 1",
        ),
        ({"max_change": float("nan")}, "max_change=nan"),
        ({"poison_rate": 0.9}, "poison_rate=0.9: needs 90 rows"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change: dict[str, float], said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        replace(ATTACK, **change).check(attacker())  # type: ignore[arg-type]
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
