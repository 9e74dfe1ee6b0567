"""Recipes over `Backdoor`: what they ask of it, read from their own configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from testbed.launcher.compose import configuration, plain, register
from testbed.launcher.instantiate import instantiate
from testbed.launcher.search import SearchPath
from tests.attack.test_backdoor import resources, rows


@pytest.fixture(scope="module")
def search() -> SearchPath:
    register(found := SearchPath())
    return found


def recipe(search: SearchPath, *words: str) -> Any:
    return instantiate(plain(configuration("train", [*words], search).config)["attack"], "attack")


def test_sig_stamps_rows_of_the_target_class_and_counts_them_over_the_whole_set(search: SearchPath) -> None:
    attack, mine = recipe(search, "attack=sig", "attack.target_label=1", "attack.trigger.frequency=3"), resources()
    poison = attack.poison(mine)
    assert len(poison.indices) == 5 and (mine.train[poison.indices].labels == 1).all() and (poison.batch.labels == 1).all()
    assert (attack.trigger.amplitude, attack.test_trigger) == (40, None)


def test_adaptive_patch_teaches_one_faint_patch_and_shows_two_whole_ones(search: SearchPath) -> None:
    attack = recipe(search, "attack=adaptive_patch", "attack.trigger.size=3")
    assert (attack.trigger.size, attack.trigger.opacities, attack.trigger.shown) == (3, (0.5, 0.2, 0.5, 0.3), 1)
    assert (attack.test_trigger.size, attack.test_trigger.opacities, attack.test_trigger.shown) == (3, (1, 0, 1, 0), 2)
    assert attack.cover_rate == 2 * attack.poison_rate and attack.adapted_to == ("spectral_signatures", "activation_clustering")


def test_tact_poisons_one_class_and_covers_others(search: SearchPath) -> None:
    attack, mine = recipe(search, "attack=tact", "attack.cover_labels=[2,3]"), resources()
    poison, test = attack.poison(mine), rows(80, seed=5)
    assert poison.cover is not None and (mine.train[poison.indices[~poison.cover]].labels == 1).all()
    assert set(poison.batch.labels[poison.cover].tolist()) <= {2, 3} and (poison.batch.labels[~poison.cover] == 0).all()
    exams = attack.triggered_tests(test, mine)
    assert set(test.labels[exams["success"].indices].tolist()) == {1} and list(exams) == ["success", "cover_sources"]
    assert torch.isin(test.labels[exams["cover_sources"].indices], torch.tensor([2, 3])).all()
