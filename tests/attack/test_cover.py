"""Cover rows: stamped as the poison is, and true."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from testbed.api import Invalid
from testbed.attack.label import SourceSpecific
from testbed.data.overlay import poisoned
from testbed.launcher.compose import configuration, plain, register
from testbed.launcher.search import SearchPath
from tests.attack.test_backdoor import BADNETS, resources

COVERED = replace(BADNETS, cover_rate=0.05)


def test_cover_rows_are_stamped_keep_their_label_and_are_no_poison() -> None:
    mine = resources()
    poison, alone = COVERED.poison(mine), BADNETS.poison(mine)
    before, cover = mine.train[poison.indices], poison.cover
    assert cover is not None and cover.sum() == 5 and len(poison.indices) == 15 == len(poison.indices.unique())
    assert torch.equal(poison.batch.labels[cover], before.labels[cover]) and (before.labels[cover] != 1).all()
    assert (poison.batch.labels[~cover] == 1).all() and (poison.batch.inputs[..., -3:, -3:] == 255).all()
    assert torch.equal(poison.indices[~cover], alone.indices), "the poison is the same rows with and without cover"
    assert alone.cover is None
    flags = poisoned(mine.train, poison, seed=0).flags
    assert flags.nonzero().flatten().tolist() == alone.indices.tolist()


def test_cover_may_come_from_classes_of_its_own() -> None:
    mine = resources()
    poison = replace(COVERED, cover_labels=(0, 3)).poison(mine)
    assert poison.cover is not None and poison.cover.sum() == 5
    assert set(poison.batch.labels[poison.cover].tolist()) <= {0, 3}
    assert torch.equal(poison.indices[~poison.cover], BADNETS.poison(mine).indices), "the poison is the same rows"


def test_cover_of_a_source_specific_trigger_comes_from_all_classes_that_are_neither_source_nor_target() -> None:
    mine = resources(200)
    attack = replace(COVERED, label=SourceSpecific((2,)), cover_rate=0.2)
    attack.check(mine)
    poison = attack.poison(mine)
    assert poison.cover is not None and set(poison.batch.labels[poison.cover].tolist()) == {0, 3}
    alone = replace(attack, cover_rate=0.0).poison(mine)
    assert torch.equal(poison.indices[~poison.cover], alone.indices) and alone.cover is None
    two = replace(mine, task=replace(mine.task, classes=("a", "b")))
    with pytest.raises(Invalid, match=r"cover_rate=0\.2: all 2 classes are source or target, so that none is left for cover"):
        replace(attack, label=SourceSpecific((0,))).check(two)


def test_appended_cover_keeps_its_label_too() -> None:
    mine = resources()
    poison = replace(COVERED, append=True).poison(mine)
    assert poison.indices.tolist() == list(range(100, 115)) and poison.cover is not None
    assert torch.equal(poison.batch.labels[poison.cover], mine.train[poison.batch.rows[poison.cover]].labels)


def test_adaptive_blend_shows_whole_what_it_taught_in_pieces_with_as_much_cover_as_poison() -> None:
    register(search := SearchPath())
    words = ["attack=adaptive_blend", "attack.trigger.pattern_seed=5", "attack.poison_rate=0.02"]
    attack = plain(configuration("train", words, search).config)["attack"]
    assert attack["test_trigger"]["pattern_seed"] == 5 and attack["cover_rate"] == 0.02
    assert (attack["trigger"]["alpha"], attack["test_trigger"]["alpha"], attack["trigger"]["pieces"]) == (0.15, 0.2, 16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cover_rate": -0.1}, "cover_rate=-0.1: must lie between 0 and 1"),
        ({"cover_rate": 0.001}, "cover_rate=0.001: 0.001 x 100 training rows rounds to 0 rows"),
        ({"cover_rate": 0.9}, "cover_rate=0.9: needs 90 rows, but only"),
        ({"cover_labels": (11,)}, "cover_labels=[11]: the classes are 0 to"),
        ({"cover_labels": (1, 3)}, "cover_labels=[1, 3]: 1 is the target class, whose rows are no cover; leave 1 out"),
        ({"cover_labels": (2, 3), "label": SourceSpecific((2,))}, "cover_labels=[2, 3]: 2 is a source class"),
        ({"cover_labels": (1,), "label": SourceSpecific((2,))}, "cover_labels=[1]: 1 is the target class"),
        ({"clean_label": True}, "cover_rate=0.05: clean-label poison keeps its labels too"),
    ],
)
def test_cover_that_cannot_work_is_refused_in_one_line(change, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        replace(COVERED, **change).check(resources())
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
