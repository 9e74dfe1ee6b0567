"""Sleeper Agent: which rows it takes, that no row shows its trigger, its retraining, and its pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from testbed.api import Examples, Invalid, Victim
from testbed.attack.sleeper_agent import SleeperAgent
from testbed.features import all_labels, evaluating, select
from testbed.identity import derive
from testbed.numerics.gradient_matching import gradient_norms, gradient_of
from testbed.trigger.scattered_patch import ScatteredPatch
from tests.attack.test_backdoor import rows
from tests.attack.test_gradient_matching import attacker
from tests.attack.test_optimised_trigger import surrogate, trained

ATTACK = SleeperAgent(
    poison_rate=0.05,
    max_change=16,
    iterations=5,
    restarts=1,
    step_size=0.1,
    batch_size=64,
    augment=False,
    rounded=False,
    trigger=ScatteredPatch(size=3, cells=2),
    source_label=2,
    target_label=1,
    retrain_iterations=2,
    source_rows=7,
)


def test_the_rows_of_the_largest_gradients_are_taken_and_none_of_them_shows_the_trigger() -> None:
    mine = attacker()
    poison = ATTACK.poison(mine)
    before = mine.train[poison.indices]
    assert (before.labels == 1).all() and torch.equal(poison.batch.labels, before.labels)
    assert (poison.batch.inputs - before.inputs.float()).abs().max() <= 16 + 1e-4
    model, of_class = trained(surrogate(), mine.train), (all_labels(mine.train) == 1).nonzero().flatten()
    batch = mine.train[of_class]
    with evaluating(model):
        norms = gradient_norms(model, batch.inputs.float(), batch.labels)
        alone = [
            torch.cat([part.flatten() for part in gradient_of(model, one[None].float(), torch.tensor([1]))]).norm()
            for one in batch.inputs
        ]
    torch.testing.assert_close(norms, torch.stack(alone))
    assert set(poison.indices.tolist()) == set(of_class[norms.topk(5).indices].tolist())


def test_the_surrogate_is_trained_anew_on_the_poison_as_it_stands() -> None:
    met: list[Any] = []

    def fit(victim: Victim, examples: Examples) -> Victim:
        met.append(examples[torch.arange(len(examples))])
        return trained(victim, examples)

    mine = replace(attacker(), fit=fit)
    poison = ATTACK.poison(mine)
    assert [batch.inputs.dtype for batch in met] == [torch.uint8, torch.float32, torch.float32]  # after 2 and 4 of 5 steps
    differs = [(batch.inputs.float() != met[0].inputs.float()).flatten(1).any(1).nonzero().flatten() for batch in met[1:]]
    assert all(torch.equal(rows, poison.indices) for rows in differs)
    assert not torch.equal(met[1].inputs, met[2].inputs)


def test_rows_of_the_source_are_examined_and_others_beside_them() -> None:
    test, mine = rows(60, 4), attacker()
    exams = ATTACK.triggered_tests(test, mine)
    labels = all_labels(test)
    assert torch.equal(exams["success"].indices, (labels == 2).nonzero().flatten())
    assert set(labels[exams["other_sources"].indices].tolist()) == {0, 3}
    assert (exams["success"].batch.labels == 1).all()
    changed = exams["success"].batch.inputs != test.inputs[exams["success"].indices]
    assert changed.flatten(1).any(1).all() and changed.flatten(1).sum(1).max() <= 9


def test_stamped_rows_of_the_source_with_the_label_of_the_target_are_what_is_aimed_at(monkeypatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(SleeperAgent, "crafted", lambda self, *facts, **steps: given.append((*facts, steps)))
    mine = attacker()
    ATTACK.poison(mine)
    (_, aim, _, _, steps), clean = given[0], mine.train[given[0][1].rows]
    assert steps == {"retrain_iterations": 2} and len(aim.rows.unique()) == 7
    assert (clean.labels == 2).all() and (aim.labels == 1).all()
    assert torch.equal(aim.inputs, ATTACK.trigger(clean.inputs, clean.rows, derive(mine.seed, "trigger")))
    assert (aim.inputs != clean.inputs).flatten(1).any(1).all()


def test_of_two_classes_the_source_alone_is_examined_and_without_its_rows_nothing_is() -> None:
    test, two = rows(60, 4), replace(attacker(), task=replace(attacker().task, classes=("a", "b")))
    attack = replace(ATTACK, source_label=0)
    both = select(test, (all_labels(test) < 2).nonzero().flatten())
    assert list(attack.triggered_tests(both, two)) == ["success"]
    with pytest.raises(Invalid, match="source_label=0: no test row is of this class"):
        attack.triggered_tests(select(both, (all_labels(both) == 1).nonzero().flatten()), two)


def test_a_pair_is_drawn_for_each_trial_unless_it_is_named() -> None:
    free = replace(ATTACK, source_label=None, target_label=None)
    pairs = {free._pair(attacker(seed)) for seed in range(60)}
    assert len(pairs) > 8 and all(source != target for source, target in pairs)  # of 12: all but a few in 60 draws
    assert {replace(free, source_label=3)._pair(attacker(seed))[0] for seed in range(5)} == {3}
    for wrong in ({"source_label": 9}, {"source_label": 1}, {"retrain_iterations": 0}):
        with pytest.raises(Invalid, match=next(iter(wrong)) if "source_label" not in wrong else "label"):
            replace(ATTACK, **wrong).check(attacker())
