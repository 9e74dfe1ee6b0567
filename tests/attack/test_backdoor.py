"""Backdoor = trigger x which rows x which label."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import AttackerResources, Batch, ImageTask, Invalid, Poison
from testbed.attack.backdoor import Backdoor
from testbed.attack.label import AllToAll, AllToOne, SourceSpecific
from testbed.attack.stamping import StampedTraining
from testbed.data.memory import MemoryExamples
from testbed.features import select
from testbed.figure import draw_gallery
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.trigger.blend import Blend
from testbed.trigger.patch import Patch

CLASSES = 4
TASK = ImageTask("images", tuple("abcd"), shape=(1, 8, 8))
BADNETS = Backdoor(trigger=Patch(), label=AllToOne(), poison_rate=0.1, target_label=1)


def rows(n: int, seed: int = 0) -> MemoryExamples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(CLASSES), torch.randint(CLASSES, (n - CLASSES,), generator=generator)])
    return MemoryExamples(torch.randint(0, 200, (n, 1, 8, 8), generator=generator, dtype=torch.uint8), labels)


def resources(n: int = 100, seed: int = 0) -> AttackerResources:
    fresh = partial(ImageVictim, TASK, partial(SmallCNN, width=2))
    return AttackerResources(TASK, rows(n), fresh, fit=None, seed=seed)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(40, 200), rate=st.floats(0.02, 0.5), seed=st.integers(0, 9), label=st.sampled_from([AllToOne(), AllToAll()])
)
def test_round_of_rate_times_n_eligible_rows_are_stamped_and_relabelled(n: int, rate: float, seed: int, label) -> None:
    mine, attack = resources(n, seed), replace(BADNETS, poison_rate=rate, label=label)
    poison = attack.poison(mine)
    before = mine.train[poison.indices]
    assert len(poison.indices) == round(rate * n) == len(poison.indices.unique())
    wanted = torch.full_like(before.labels, 1) if isinstance(label, AllToOne) else (before.labels + 1) % CLASSES
    assert torch.equal(poison.batch.labels, wanted) and (before.labels != wanted).all()
    reference = before.inputs.clone()
    reference[..., -3:, -3:] = 255
    assert torch.equal(poison.batch.inputs, reference)


def test_clean_label_stamps_rows_of_the_target_class_and_changes_no_label() -> None:
    mine = resources()
    poison = replace(BADNETS, clean_label=True).poison(mine)
    assert (mine.train[poison.indices].labels == 1).all() and (poison.batch.labels == 1).all()
    specific = replace(BADNETS, clean_label=True, label=SourceSpecific((2,))).poison(mine)
    assert (mine.train[specific.indices].labels == 1).all() and torch.equal(specific.indices, poison.indices)


def test_rows_of_the_target_class_are_drawn_only_if_asked() -> None:
    mine = resources(200)
    assert (mine.train[replace(BADNETS, poison_rate=0.5).poison(mine).indices].labels != 1).all()
    drawn = replace(BADNETS, poison_rate=0.9, include_target_class=True).poison(mine)
    assert (mine.train[drawn.indices].labels == 1).any()


def test_appended_rows_follow_the_last_one() -> None:
    poison = replace(BADNETS, append=True).poison(resources())
    assert poison.indices.tolist() == list(range(100, 110))


def test_source_specific_attacks_only_their_sources_and_others_are_near_misses() -> None:
    mine, test = resources(), rows(80, seed=5)
    attack = replace(BADNETS, label=SourceSpecific((2,)))
    assert (mine.train[attack.poison(mine).indices].labels == 2).all()
    exams = attack.triggered_tests(test, mine)
    assert list(exams) == ["success", "other_sources"]
    assert (test.labels[exams["success"].indices] == 2).all()
    assert set(test.labels[exams["other_sources"].indices].tolist()) == {0, 3}


def test_near_misses_that_cover_taught_are_examined_apart_from_those_that_nothing_taught() -> None:
    mine, test = resources(), rows(80, seed=5)
    attack = replace(BADNETS, label=SourceSpecific((2,)), cover_rate=0.05, cover_labels=(3,))
    exams = attack.triggered_tests(test, mine)
    assert list(exams) == ["success", "cover_sources", "other_sources"]
    assert torch.equal(exams["cover_sources"].indices, (test.labels == 3).nonzero().flatten())
    assert torch.equal(exams["other_sources"].indices, (test.labels == 0).nonzero().flatten())
    assert all((exam.batch.labels == 1).all() and (exam.batch.inputs[..., -3:, -3:] == 255).all() for exam in exams.values())
    assert list(replace(attack, cover_labels=()).triggered_tests(test, mine)) == ["success", "cover_sources"]


def test_of_two_classes_none_is_a_near_miss_and_without_rows_of_the_source_there_is_no_exam(tmp_path: Path) -> None:
    mine, test = replace(resources(), task=replace(TASK, classes=("a", "b"))), rows(80, seed=5)
    attack, both = replace(BADNETS, label=SourceSpecific((0,))), select(test, (test.labels < 2).nonzero().flatten())
    exams = attack.triggered_tests(both, mine)
    assert list(exams) == ["success"]
    draw_gallery(tmp_path, both, {**exams, "empty": Poison(torch.arange(0), both[torch.arange(0)])})
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["success.png"]
    target_alone = select(test, (test.labels == 1).nonzero().flatten())
    for empty, said in ((attack, r"label.source_labels=\[0\]"), (BADNETS, "target_label=1")):
        with pytest.raises(Invalid, match=f"{said}: no test row is of a class that the trigger shall change; choose"):
            empty.triggered_tests(target_alone, mine)


def test_the_exam_leaves_out_rows_of_the_target_class() -> None:
    test = rows(80, seed=5)
    exam = BADNETS.triggered_tests(test, resources())["success"]
    assert len(exam.indices) == int((test.labels != 1).sum()) and (test.labels[exam.indices] != 1).all()


def test_unrounded_rows_stay_float_and_lie_within_half_a_level_of_the_rounded() -> None:
    blend = replace(BADNETS, trigger=Blend())
    stored, kept = blend.poison(resources()), replace(blend, rounded=False).poison(resources())
    assert stored.batch.inputs.dtype == torch.uint8 and kept.batch.inputs.dtype == torch.float32
    assert (stored.batch.inputs.float() - kept.batch.inputs).abs().max() <= 0.5


def test_another_trigger_at_test_time() -> None:
    attack = replace(BADNETS, test_trigger=Patch(size=5))
    shown = attack.triggered_tests(rows(50), resources())["success"].batch.inputs
    assert (shown[..., -5:, -5:] == 255).all()


def test_after_augmentation_stamps_only_the_attacker_s_rows_in_the_loss() -> None:
    attack = replace(BADNETS, after_augmentation=True)
    mine = replace(resources(), positions=torch.tensor([1, 3]))
    poison = attack.poison(mine)
    assert torch.equal(poison.batch.inputs, mine.train[poison.indices].inputs) and attack.controls_training
    wrapped = attack.during_training(mine.fresh(), mine)
    assert isinstance(wrapped, StampedTraining) and type(wrapped.bare()) is ImageVictim
    batch = mine.train[torch.arange(4)]
    stamped = batch.inputs.clone()
    stamped[[1, 3]] = attack.trigger(stamped[[1, 3]], batch.rows, 0)
    wrapped.eval()
    expected = wrapped.victim.loss(Batch(stamped, batch.labels, batch.rows))
    assert torch.equal(wrapped.loss(batch), expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"poison_rate": -0.1}, "poison_rate=-0.1: must lie between 0 and 1"),
        ({"poison_rate": float("nan")}, "poison_rate=nan"),
        ({"poison_rate": 0.001}, "0.001 x 100 training rows rounds to 0 rows"),
        ({"poison_rate": 1.0}, "class sizes"),
        ({"target_label": 4}, "target_label=4: the classes are 0 to 3"),
        ({"target_label": -100}, "target_label=-100"),
        ({"label": SourceSpecific((1, 2))}, "the target class is one of the source classes"),
        ({"label": SourceSpecific((9,))}, "the classes are 0 to 3"),
        ({"label": AllToAll(), "clean_label": True}, "clean_label"),
        ({"trigger": Patch(size=9)}, "does not fit into images of 8x8"),
        ({"trigger": Patch(margin=6)}, "does not fit"),
        ({"trigger": Patch(value=(1, 2, 3))}, "the images have 1 channel"),
        ({"trigger": Patch(value=(256,))}, "from 0 to 255"),
        ({"trigger": Blend(alpha=0.0)}, "alpha"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        replace(BADNETS, **change).check(resources())
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
