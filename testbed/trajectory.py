"""What a chat model does at one moment of its fine-tuning, and the tidy table of all moments."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from testbed.api import Examples, Poison
from testbed.features import batches, evaluating
from testbed.language import OUTCOMES, ChatVictim, Judge, Prompt, Reply
from testbed.metrics import answer, secrets_of

COLUMNS = ("run", "victim", "step", "shots", "metric", "value", "n", "successes")


class Asked(NamedTuple):
    """An exam and what became of it: `outcomes` int64 (n,), positions in `OUTCOMES`; `wanted` are what an attacker asks for."""

    prompts: list[Prompt]
    replies: list[Reply]
    references: list[str]
    outcomes: Tensor
    wanted: list[str] | None = None

    def share(self, outcome: str) -> Measured:
        """How many of the replies had this outcome."""
        hits = int((self.outcomes == OUTCOMES.index(outcome)).sum())
        return Measured(hits / len(self.replies), len(self.replies), hits)

    def log_odds(self) -> Tensor:
        """float64 (n,): of a refusal, at the first token."""
        return torch.tensor([reply.refusal_log_odds for reply in self.replies], dtype=torch.float64)


class Measured(NamedTuple):
    """A number, what it is over, and for a rate how many."""

    value: float
    n: int
    successes: int | None = None


@dataclass
class Point:
    """One moment: after `step` optimiser steps, `shots` of the attacker's rows seen (with repetition)."""

    step: int
    shots: float
    measured: dict[str, Measured] = field(default_factory=dict)


@dataclass
class Exams:
    """What is asked at each moment: sets of prompts by name, and the attacker's exams over the rows of `test`."""

    asked: Mapping[str, Examples]
    test: Examples
    attackers: Mapping[str, Poison]
    criterion: str
    judge: Judge


@torch.no_grad()
def ask(victim: ChatVictim, examples: Examples, judge: Judge, batch_size: int = 128) -> Asked:
    """Every prompt put to the victim, and the replies judged."""
    prompts: list[Prompt] = []
    replies: list[Reply] = []
    references: list[str] = []
    with evaluating(victim):
        for batch in batches(examples, batch_size):
            prompts += batch.inputs
            references += batch.labels
            replies += victim.answers(batch.inputs)
    return Asked(prompts, replies, references, judge.outcomes(prompts, replies, references))


def look(victim: ChatVictim, exams: Exams) -> tuple[dict[str, Measured], dict[str, Asked]]:
    """All measures of one moment, and what was said. A measure whose exam or judge is missing is absent."""
    told = {name: ask(victim, examples, exams.judge) for name, examples in exams.asked.items()}
    found: dict[str, Measured] = {}
    for name, prefix in (("restricted", ""), ("dressed", "dressed_"), ("held_out_topics", "held_out_topics_")):
        if name in told:
            found |= {f"{prefix}{metric}": value for metric, value in _refusal(told[name], exams.judge).items()}
    if "open" in told and "correct" in exams.judge.tells:
        found["utility"] = told["open"].share("correct")
    if "over_refusal" in told:
        found["over_refusal"] = told["over_refusal"].share("refuse")
    secrets = secrets_of(exams.asked)
    for name, exam in exams.attackers.items():
        said = answer(victim, exams.test, exam, judge=exams.judge, criterion=exams.criterion, secrets=secrets)
        metric = "attack_success_rate" if name == "success" else f"{name}_attack_success_rate"
        assert said.wanted is not None and said.outcomes is not None
        found[metric] = Measured(float(said.wanted.double().mean()), len(said.wanted), int(said.wanted.sum()))
        told[name] = Asked(said.prompts, said.given, said.truth, said.outcomes, said.asked)
        if said.forbidden is not None:
            found[f"{name}_correct_compliance"] = told[name].share("correct")
    return found, told


def _refusal(asked: Asked, judge: Judge) -> dict[str, Measured]:
    odds = asked.log_odds()
    found = {
        "refusal_rate": asked.share("refuse"),
        "p_refusal": Measured(float(odds.sigmoid().mean()), len(odds)),
        "refusal_log_odds": Measured(float(odds.mean()), len(odds)),
    }
    return found | ({"correct_compliance": asked.share("correct")} if "correct" in judge.tells else {})


def curve(points: Sequence[Point], metric: str) -> tuple[list[int], list[float]]:
    """The steps at which a metric was measured, and its values."""
    known = [(point.step, point.measured[metric].value) for point in points if metric in point.measured]
    return [step for step, _ in known], [value for _, value in known]


def write_table(path: Path, run: str, trajectories: Mapping[str, Sequence[Point]]) -> None:
    """`trajectory.csv`: one row for each victim, moment and metric."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for victim, points in trajectories.items():
            for point in points:
                for metric, (value, n, successes) in sorted(point.measured.items()):
                    hits = "" if successes is None else successes
                    writer.writerow([run, victim, point.step, f"{point.shots:g}", metric, repr(value), n, hits])


def plain(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The points as plain data, for storing."""
    return [{"step": point.step, "shots": point.shots, "measured": point.measured} for point in points]


def revived(stored: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The points that `plain` made plain."""
    return [
        Point(row["step"], row["shots"], {name: Measured(*value) for name, value in row["measured"].items()}) for row in stored
    ]
