"""Input-aware triggers: what is drawn, what the losses are, which rows show what, and exams by what was learnt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from testbed.api import Invalid, Task, Unsupported
from testbed.attack.input_aware import InputAware
from testbed.attack.own_trigger import (
    Lesson,
    OwnTrigger,
    OwnTriggerTraining,
    diversity_loss,
    limited,
    painter,
    sharpened,
    train_masks,
)
from testbed.fit import fit
from testbed.identity import weights_digest
from tests.attack.test_backdoor import resources, rows
from tests.attack.test_optimised_trigger import SETTINGS

ATTACK = InputAware(
    batch_share=0.25,
    cross_share=0.25,
    target_label=1,
    mask_epochs=1,
    mask_density=0.032,
    mask_weight=100.0,
    diversity_weight=1.0,
    longest_slope=0.3,
    width=4,
)


def wrapped() -> OwnTriggerTraining:
    mine = resources()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = mine.fresh()
    found = ATTACK.during_training(fresh, mine)
    assert isinstance(found, OwnTriggerTraining)
    return found


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (2, 5, 33), (1, 3, 3)])
def test_a_drawing_has_the_size_of_its_image_lies_in_0_to_1_and_depends_on_that_image_alone(shape: tuple[int, ...]) -> None:
    images = 255 * torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    drawn = painter(shape, 2, 4, seed=0)(images)
    assert drawn.shape == (3, 2, *shape[1:]) and drawn.min() >= 0 and drawn.max() <= 1
    assert torch.allclose(painter(shape, 2, 4, seed=0)(images[1:2]), drawn[1:2], atol=1e-6)
    assert sharpened(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0, 0.5, 1], abs=1e-6)


def test_diversity_is_the_distance_of_images_over_that_of_drawings() -> None:
    images, drawings = torch.tensor([[[[0.0, 255.0]]], [[[0.0, 0.0]]]]), torch.tensor([[[[0.5, 0.5]]], [[[0.0, 1.0]]]])
    one_way = diversity_loss(images[:1], images[1:], drawings[:1], drawings[1:])
    assert one_way.item() == pytest.approx((1 / 2) ** 0.5 / 0.5, rel=1e-5)
    same = diversity_loss(images[:1], images[1:], drawings[:1], drawings[:1])
    assert same.item() == pytest.approx((1 / 2) ** 0.5 / 1e-3, rel=1e-5), "high, and finite"


def test_masks_learn_to_be_small() -> None:
    masks, train = painter((1, 8, 8), 1, 4, seed=0), rows(64)
    images = train[torch.arange(64)].inputs.float()
    with torch.no_grad():
        masks.last.bias.fill_(1)
        before = sharpened(masks(images)).mean()
    train_masks(masks, train, density=0.032, density_weight=100.0, epochs=12, seed=0)
    assert before > 0.9 and sharpened(masks(images)).mean() < 0.2
    assert not any(parameter.requires_grad for parameter in masks.parameters())


def test_in_a_batch_a_quarter_shows_its_own_trigger_another_that_of_the_row_before_and_the_rest_nothing() -> None:
    training = wrapped().eval()
    trigger, batch = training.trigger, rows(8)[torch.arange(8)]
    images, others = batch.inputs.float(), batch.inputs.float().roll(1, 0)
    expected, labels = images.clone(), batch.labels.clone()
    for place in range(4):
        drawn_for = (images if place < 2 else others)[place : place + 1]
        mask, pattern = sharpened(trigger.masks(drawn_for)), 255 * trigger.patterns(drawn_for)
        expected[place] = (images[place] + (pattern - images[place]) * mask)[0]
    labels[:2] = 1
    spread = diversity_loss(images[:2], others[:2], trigger.patterns(images[:2]), trigger.patterns(others[:2]))
    reference = training.victim.loss_of(expected, labels) + spread
    assert training.loss(batch).item() == pytest.approx(reference.item(), rel=1e-5)


def test_even_a_small_batch_is_attacked_and_a_share_of_0_means_none() -> None:
    lesson = Lesson(1, batch_share=0.1, cross_share=0.0, longest_slope=0.3, diversity_weight=1.0)
    assert [lesson.rows(0.1, count) for count in (1, 4, 32)] == [1, 1, 3] and lesson.rows(0.0, 32) == 0
    single = rows(8)[torch.arange(1)]
    assert wrapped().eval().loss(single).isfinite()


def test_a_gradient_that_is_too_long_is_cut_and_no_number_changes() -> None:
    for slope, expected in (([3.0, 4.0], [0.6, 0.8]), ([0.3, 0.4], [0.3, 0.4]), ([0.0, 0.0], [0.0, 0.0])):
        free = torch.tensor([0.5, 2.0], requires_grad=True)
        given = limited(2 * free, 1.0)
        assert torch.equal(given, 2 * free)
        (given * torch.tensor(slope)).sum().backward()
        assert free.grad is not None and torch.allclose(free.grad, 2 * torch.tensor(expected))


def test_victim_and_patterns_learn_masks_do_not_and_all_of_it_comes_off() -> None:
    training, mine = wrapped(), resources()
    trained = fit(training, mine.train, settings=SETTINGS, seed=0)[0]
    assert isinstance(trained, OwnTriggerTraining)
    for part, learns in (("victim", True), ("trigger.patterns", True), ("trigger.masks", False)):
        one, other = (weights_digest(whole.get_submodule(part)) for whole in (training, trained))
        assert (one != other) is learns, part
    assert type(trained.bare()) is type(mine.fresh()) and not any("trigger" in name for name in trained.bare().state_dict())
    assert len(ATTACK.poison(mine).indices) == 0, "the rows that are handed on are clean"


def test_exams_are_set_by_what_was_learnt_and_there_are_none_before() -> None:
    mine, test = resources(), rows(40, seed=5)
    assert ATTACK.triggered_tests(test, mine) == {}
    trained = wrapped()
    exams = ATTACK.triggered_tests(test, replace(mine, trained=trained))
    assert list(exams) == ["success", "cross_trigger"]
    success, cross = exams.values()
    clean = test[success.indices]
    assert (clean.labels != 1).all() and torch.equal(success.indices, cross.indices)
    assert success.batch.inputs.dtype == torch.uint8
    with torch.no_grad():
        expected = trained.trigger(clean.inputs, clean.rows, 0)
    assert torch.equal(success.batch.inputs, expected) and not torch.equal(cross.batch.inputs, expected)


def test_a_trigger_keeps_dtype_and_argument() -> None:
    trigger = OwnTrigger(painter((1, 8, 8), 1, 4, seed=0), painter((1, 8, 8), 1, 4, seed=1))
    images = rows(8)[torch.arange(8)].inputs
    before = images.clone()
    stored, exact = trigger(images, torch.arange(8), 0), trigger(images.float(), torch.arange(8), 0)
    assert stored.dtype == torch.uint8 and (stored.float() - exact).abs().max() <= 0.501 and torch.equal(images, before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_share": 0.0}, "batch_share=0.0: must be above 0"),
        ({"cross_share": 0.8}, "cross_share=0.8: must lie between 0 and what batch_share=0.25 leaves"),
        ({"target_label": 4}, "target_label=4: the classes are 0 to 3"),
        ({"longest_slope": 0.0}, "longest_slope=0.0: must be above 0"),
        ({"mask_epochs": -1}, "mask_epochs=-1: must be at least 0"),
        ({"width": 0}, "width=0: must be at least 1"),
        ({"mask_density": float("nan")}, "mask_density=nan: must lie between 0 and 1"),
        ({"mask_weight": -1.0}, "mask_weight=-1.0: must be at least 0"),
        ({"diversity_weight": float("inf")}, "diversity_weight=inf: must be at least 0, and finite"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change: dict[str, float], said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        replace(ATTACK, **change).check(resources())  # type: ignore[arg-type]
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_texts_are_not_its_thing() -> None:
    with pytest.raises(Unsupported, match="needs images, not text"):
        ATTACK.check(replace(resources(), task=Task("text", tuple("abcd"))))
