"""A trigger that surrogates chose: its bound, its steps, its rehearsals, and what it knows of the defence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch

from testbed.api import AttackerResources, Defence, DefenderResources, Examples, Invalid, OracleResources, Victim
from testbed.attack.adaptive_trigger import AdaptiveTrigger
from testbed.attack.optimised_trigger import OptimisedTrigger
from testbed.attack.rehearsal import Rehearsed, rehearse
from testbed.attack.universal_trigger import Perturbation, shown_change
from testbed.defence.fine_tuning import FineTuning
from testbed.defence.none import NoDefence
from testbed.fit import Settings, constant, fit
from testbed.identity import examples_digest, weights_digest
from tests.attack.test_backdoor import BADNETS, resources, rows

SETTINGS = Settings(1, 32, partial(torch.optim.SGD, lr=0.05), constant, threads=1)
ATTACK = OptimisedTrigger(
    poison_rate=0.1, target_label=1, max_change=8, rounds=1, steps=3, batch_size=16, reserve_share=0.1, repair_rate=0.01
)


def trained(victim: Victim, examples: Examples, *, epochs: int | None = None, optimiser: Any = None) -> Victim:
    return fit(victim, examples, settings=SETTINGS, seed=0, epochs=epochs, optimiser=optimiser)[0]


def attacker(defence: Defence | None = None) -> AttackerResources:
    return replace(resources(), fresh=surrogate, fit=trained, defence=defence)


def surrogate() -> Victim:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return resources().fresh()


@dataclass(frozen=True)
class Keeps(Defence):
    """Keeps what it is shown."""

    kept: Any

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        self.kept.extend([received, resources])
        return received


class OracleKeeps(Keeps):
    oracle: ClassVar[bool] = True


@pytest.mark.parametrize("rounds", [0, 1])
def test_the_payload_is_stored_bounded_and_the_same_change_everywhere(rounds: int) -> None:
    mine, attack = attacker(), replace(ATTACK, rounds=rounds)
    poison = attack.poison(mine)
    clean = mine.train[poison.indices].inputs
    change = shown_change(clean, poison.batch.inputs)
    assert poison.batch.inputs.dtype == torch.uint8 and 0 < change.abs().max() <= 8
    assert torch.equal(poison.batch.inputs, Perturbation(change)(clean, poison.indices, 0))
    assert (poison.batch.labels == 1).all() and len(poison.indices) == 10


def test_a_step_goes_down_the_slope_of_every_model_and_stays_within_the_bound() -> None:
    mine, attack = attacker(), replace(ATTACK, steps=1, batch_size=400)
    victim = trained(mine.fresh(), mine.train)
    moved = attack._improved(torch.zeros(1, 8, 8), [victim, victim], iter([]), mine, seed=0)
    assert set(moved.unique().tolist()) <= {-8.0, 0.0, 8.0}, "one step of 2.5 times the bound, cut off at the bound"
    other = mine.train[(mine.train.labels != 1).nonzero().flatten()].inputs.float()
    target = torch.ones(len(other), dtype=torch.int64)
    small = torch.sign(moved) * 0.5
    before, after = (torch.nn.functional.cross_entropy(victim(other + change), target) for change in (0 * small, small))
    assert after < before


def test_a_rehearsal_parts_the_rows_and_poisons_what_it_trains_on() -> None:
    kept: list[Any] = []
    mine = attacker(Keeps(kept))
    poison = BADNETS.poison(mine)
    rehearsed = rehearse(mine, poison, 0.1, seed=3)
    received, defender = kept
    assert len(received) == 80 and received.flags.sum() == 10 and type(defender) is DefenderResources
    assert torch.equal(received[received.flags.nonzero().flatten()].inputs, poison.batch.inputs)
    whole = torch.cat([received.rows, *(_places(part, mine.train) for part in (rehearsed.reserve, rehearsed.unseen))])
    assert whole.sort().values.tolist() == list(range(100))


def _places(part: Examples, train: Examples) -> torch.Tensor:
    every, mine = (examples[torch.arange(len(examples))].inputs.flatten(1) for examples in (train, part))
    return (mine[:, None] == every).all(2).nonzero()[:, 1]


def test_an_oracle_is_rehearsed_with_its_answers() -> None:
    kept: list[Any] = []
    rehearse(attacker(OracleKeeps(kept)), BADNETS.poison(attacker()), 0.1, seed=3)
    received, defender = kept
    assert isinstance(defender, OracleResources) and torch.equal(defender.poisoned, received.flags)


def test_without_a_defence_that_acts_it_is_an_ordinary_optimised_trigger() -> None:
    plain = ATTACK.poison(attacker()).batch.inputs
    adaptive = AdaptiveTrigger(**vars(ATTACK))
    assert torch.equal(adaptive.poison(attacker(NoDefence())).batch.inputs, plain)
    tuning = FineTuning(2, partial(torch.optim.SGD, lr=0.1))
    assert not torch.equal(adaptive.poison(attacker(tuning)).batch.inputs, plain)


def test_the_surrogate_is_repaired_by_the_defence_s_objective_and_by_nothing_else() -> None:
    tuning, mine = FineTuning(1, partial(torch.optim.SGD, lr=0.1)), attacker()
    victim = trained(mine.fresh(), mine.train)
    shown = Rehearsed(victim, None, mine.train, mine.train)
    assert list(ATTACK._repaired(shown, replace(mine, defence=NoDefence()), 0)) == [] == list(ATTACK._repaired(shown, mine, 0))
    before, repaired = weights_digest(victim), ATTACK._repaired(shown, replace(mine, defence=tuning), 0)
    assert len({before, weights_digest(next(repaired)), weights_digest(next(repaired))}) == 3
    assert weights_digest(victim) == before, "the surrogate itself stays what it was"


def test_the_exam_shows_the_change_that_the_poison_shows() -> None:
    mine, test = attacker(), rows(40, seed=5)
    poison = ATTACK.poison(mine)
    exam = ATTACK.triggered_tests(test, replace(mine, fit=None, poison=poison))["success"]  # type: ignore[arg-type]
    change = shown_change(mine.train[poison.indices].inputs, poison.batch.inputs)
    expected = (test[exam.indices].inputs.int() + change.int()).clamp(0, 255)
    assert torch.equal(exam.batch.inputs.int(), expected) and (test.labels[exam.indices] != 1).all()
    assert examples_digest(mine.train) == examples_digest(attacker().train)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_change": 0}, "max_change=0: must be a whole number of grey levels, from 1 to 255"),
        ({"rounds": -1}, "rounds=-1: must be at least 0"),
        ({"steps": 0}, "steps=0: must be at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"repair_rate": 0.0}, "repair_rate=0.0: must be above 0"),
        ({"reserve_share": 0.5}, "reserve_share=0.5: twice 50 of 90"),
        ({"reserve_share": float("nan")}, "reserve_share=nan: must lie between 0 and 1"),
        ({"reserve_share": 0.001}, "reserve_share=0.001"),
        ({"poison_rate": 0.0}, "poison_rate=0.0: a trigger is learnt from rows that show it; say attack=none"),
        ({"target_label": 4}, "target_label=4: the classes are 0 to 3"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        replace(ATTACK, **change).check(attacker())
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_defence_that_cannot_work_is_refused_in_its_own_name() -> None:
    with pytest.raises(Invalid, match=r"^defence\.epochs=0: must be at least 1"):
        AdaptiveTrigger(**vars(ATTACK)).check(attacker(FineTuning(0, partial(torch.optim.SGD, lr=0.1))))
