"""Defences against references written out here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, ImageTask, Invalid, OracleResources, Unsupported, Victim
from testbed.data.memory import MemoryExamples
from testbed.defence.filter import Filter
from testbed.defence.fine_pruning import FinePruning
from testbed.defence.fine_tuning import FineTuning
from testbed.defence.oracle_filter import OracleFilter
from testbed.defence.random_filter import RandomFilter
from testbed.defence.reject import Reject
from testbed.defence.rule import CleanQuantile, FixedFraction, Published
from testbed.features import accuracy, read
from testbed.fit import Settings, constant, fit
from testbed.identity import weights_digest
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.model.vit_small import ViTSmall

TASK = ImageTask("images", ("a", "b", "c"), shape=(1, 16, 16))
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
SETTINGS = Settings(max_epochs=3, batch_size=16, optimiser=SGD, schedule=partial(constant), threads=1)


def rows(n: int, seed: int) -> MemoryExamples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    inputs = torch.randint(0, 60, (n, 1, 16, 16), generator=generator, dtype=torch.uint8)
    inputs += (labels * 80).to(torch.uint8).view(-1, 1, 1, 1)
    return MemoryExamples(inputs, labels)


def fresh() -> Victim:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ImageVictim(TASK, partial(SmallCNN, width=4))


def train(victim: Victim, examples: Examples, **options: Any) -> Victim:
    settings = replace(SETTINGS, max_epochs=options.get("epochs", 3), optimiser=options.get("optimiser", SGD))
    return fit(victim, examples, settings=settings, seed=0)[0]


RESOURCES = DefenderResources(TASK, rows(60, 1), rows(30, 2), fresh, train, seed=0)


@pytest.fixture(scope="module")
def victim() -> Victim:
    return train(fresh(), rows(90, 3), epochs=6)


@dataclass(frozen=True)
class Brightness(Detector):
    """Calls bright rows suspicious."""

    judges: ClassVar[frozenset[str]] = frozenset({"rows", "queries"})
    decides: bool = True

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        return examples[torch.arange(len(examples))].inputs.float().mean((1, 2, 3))

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor | None:
        return scores > 150 if self.decides else None


def test_fine_tuning_trains_on_the_reserve_and_nothing_else(victim: Victim) -> None:
    before = weights_digest(victim)
    expected = train(victim, RESOURCES.reserve, epochs=2)
    assert weights_digest(FineTuning(2, SGD).after_training(victim, RESOURCES)) == weights_digest(expected)
    assert weights_digest(victim) == before


def test_fine_pruning_silences_the_most_dormant_channels_for_good(victim: Victim) -> None:
    tuned = FinePruning(max_drop=0.3, step=0.1, epochs=1, optimiser=SGD).after_training(victim, RESOURCES)
    activation = read(victim, RESOURCES.reserve, "penultimate").features.mean(0)
    silent = (tuned.groups["penultimate"][0].module.weight == 0).all(0)
    pruned = int(silent.sum())
    assert 0 < pruned < len(activation)
    assert set(silent.nonzero().flatten().tolist()) == set(activation.argsort()[:pruned].tolist())
    assert set(tuned.state_dict()) == set(victim.state_dict())  # nothing of the masks is left behind


@pytest.mark.parametrize("max_drop", [0.01, 0.3, 0.6])
def test_fine_pruning_stops_before_the_reserve_suffers_too_much(victim: Victim, max_drop: float) -> None:
    untouched = FinePruning(max_drop, 0.1, 1, SGD)

    def no_training(model: Victim, examples: Examples, **options: Any) -> Victim:
        return model

    pruned = untouched.after_training(victim, replace(RESOURCES, fit=no_training))
    assert accuracy(pruned, RESOURCES.reserve) >= (1 - max_drop) * accuracy(victim, RESOURCES.reserve)


def test_fine_pruning_needs_channels() -> None:
    task = replace(TASK, shape=(1, 32, 32))
    vit = partial(ImageVictim, task, partial(ViTSmall))
    with pytest.raises(Unsupported, match="convolutional"):
        FinePruning(0.1, 0.1, 1, SGD).check(replace(RESOURCES, fresh=vit))


@pytest.mark.parametrize(
    ("rule", "removed"),
    [
        (Published(), lambda scores, clean: scores > 150),
        (FixedFraction(0.2), lambda scores, clean: scores >= scores.sort(descending=True).values[11]),
        (CleanQuantile(0.1), lambda scores, clean: scores > clean.sort().values[27]),  # the 28th of 30: 2 of 30 exceed it
    ],
)
def test_a_filter_keeps_what_its_rule_leaves(rule: Any, removed: Callable[[Tensor, Tensor], Tensor]) -> None:
    scores, clean = (Brightness().score(part, fresh(), RESOURCES) for part in (RESOURCES.train, RESOURCES.reserve))
    kept = Filter(Brightness(), rule).before_training(RESOURCES.train, RESOURCES)
    expected = RESOURCES.train[(~removed(scores, clean)).nonzero().flatten()]
    assert torch.equal(kept[torch.arange(len(kept))].inputs, expected.inputs) and 0 < len(kept) < 60


def test_a_detector_without_a_rule_cannot_filter_by_one() -> None:
    with pytest.raises(Unsupported, match="no published rule"):
        Filter(Brightness(decides=False), Published()).before_training(RESOURCES.train, RESOURCES)


def test_a_rejected_query_is_a_miss_in_every_rate(victim: Victim) -> None:
    guarded = Reject(Brightness(), 0.1).at_inference(victim, RESOURCES)
    queries = rows(30, 9)
    scores, clean = (Brightness().score(part, victim, RESOURCES) for part in (queries, RESOURCES.reserve))
    refused = scores > clean.sort().values[27]
    answers = guarded.answers(queries.inputs)
    assert refused.any() and (answers[refused] == -1).all()
    assert torch.equal(answers[~refused], victim.answers(queries.inputs)[~refused])
    assert not any(guarded.correct(answers, torch.full((30,), label))[refused].any() for label in range(3))


def test_controls(victim: Victim) -> None:
    poisoned = torch.arange(60) % 7 == 0
    oracle = OracleResources(TASK, RESOURCES.train, RESOURCES.reserve, fresh, train, 0, poisoned=poisoned)
    assert len(OracleFilter().before_training(RESOURCES.train, oracle)) == 60 - int(poisoned.sum())
    with pytest.raises(TypeError, match="oracle"):
        OracleFilter().before_training(RESOURCES.train, RESOURCES)
    assert len(RandomFilter(0.25).before_training(RESOURCES.train, RESOURCES)) == 45


def refusals() -> Sequence[tuple[Any, str]]:
    query_only = type("QueryOnly", (Brightness,), {"judges": frozenset({"queries"})})()
    row_only = type("RowOnly", (Brightness,), {"judges": frozenset({"rows"})})()
    return [
        (FineTuning(0, SGD), "epochs=0"),
        (FinePruning(0.0, 0.1, 1, SGD), "max_drop=0.0"),
        (FinePruning(0.1, 1.0, 1, SGD), "step=1.0"),
        (Filter(query_only, Published()), "needs one that judges rows"),
        (Filter(Brightness(), FixedFraction(1.5)), "rule.fraction=1.5"),
        (Reject(row_only, 0.1), "needs one that judges queries"),
        (Reject(Brightness(), 0.0), "false_alarm_rate=0.0"),
        (RandomFilter(1.0), "fraction=1.0"),
    ]


@pytest.mark.parametrize(("defence", "said"), refusals())
def test_what_cannot_work_is_refused(defence: Any, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        defence.check(RESOURCES)
    assert said in str(refusal.value)
