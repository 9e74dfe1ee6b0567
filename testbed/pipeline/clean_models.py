"""Clean models to compare a suspect with: its architecture, trained on rows that the auditor trusts; and how they fit them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from testbed.api import Attack, AttackerResources, DefenderResources, Diverged, Examples, Poison, Victim
from testbed.data.overlay import anonymous
from testbed.features import accuracy, all_labels, batches, evaluating, progress
from testbed.language import ChatVictim
from testbed.pipeline.scene import Scene

FIRST = 1000
"""Seeds of the clean models of audit seed s are `FIRST` (s + 1) and on: others than people try things with."""
ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Nobody(Attack):
    """Stands where a scene has an attacker: an audit knows of none."""

    def poison(self, resources: AttackerResources) -> Poison:
        raise TypeError("an audit poisons nothing")

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        raise TypeError("an audit examines by no attack")


class Fitness(NamedTuple):
    """How well a model fits clean rows: what it is called, its value in 0..1, over n rows, and the level of chance, if any."""

    name: str
    value: float
    n: int
    chance: float | None


class Cohort(NamedTuple):
    """Clean models with their fitness; `doubt` says why there are none, or fewer than were asked for."""

    victims: list[Victim]
    fitness: list[float]
    doubt: str = ""


def cohort(scene: Scene, count: int) -> Cohort:
    """So many clean models, trained once for all audits of this architecture on these rows, like any other victim."""
    found: list[Victim] = []
    try:
        for seed in progress(list(seeds(scene.seed, count)), "clean models"):
            one = replace(scene, seed=seed)
            found.append(one.fit(False, role=f"clean_{seed}")(one.fresh(), anonymous(one.data.train)))
    except Diverged as reason:
        return Cohort([], [], f"a clean model could not be trained ({reason}): choose another trainer")
    return Cohort(found, [fitness(victim, scene.data.test).value for victim in found])


def seeds(seed: int, count: int) -> Iterator[int]:
    """The seeds of the clean models of an audit."""
    yield from range(FIRST * (seed + 1), FIRST * (seed + 1) + count)


def fitness(victim: Victim, test: Examples) -> Fitness:
    """Accuracy of a classifier; of a chat model the geometric mean probability of the tokens of the true answers."""
    if isinstance(victim, ChatVictim):
        return Fitness("mean token probability", _token_probability(victim, test), len(test), None)
    labels = all_labels(test)
    commonest = float(labels.bincount().max()) / len(labels)
    return Fitness("clean accuracy", accuracy(victim, test), len(labels), commonest)


@torch.no_grad()
def _token_probability(victim: ChatVictim, test: Examples) -> float:
    """exp(mean log p of an answer's token): judged by nobody, and 1 where every answer is certain."""
    total, count = 0.0, 0
    with evaluating(victim):
        for batch in batches(test, ROWS_AT_ONCE):
            tokens = victim.tokens(batch)
            total += float(victim.token_losses(tokens).double().sum())
            count += int(tokens.answer.sum())
    return math.exp(-total / max(1, count))


def defender(scene: Scene) -> DefenderResources:
    """What a detector may use: the trusted rows, the reserve, and nothing of a poison."""
    return scene.defender(anonymous(scene.data.train), False)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Lowest and highest, for people; nothing where there are no values."""
    return {"n": len(values), **({"low": min(values), "high": max(values)} if values else {})}


def of_class(triggers: Any, place: int) -> Any:
    """The part of reconstructed triggers that belongs to one class, where they are tensors by class; otherwise None."""
    parts = triggers if isinstance(triggers, tuple) and hasattr(triggers, "_replace") else ()
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        return None
    return type(triggers)(*(part[place : place + 1] for part in parts))
