"""Wrong labels and nothing else: the plainest attack on availability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from testbed.api import Attack, AttackerResources, Examples, Invalid, Poison, Unsupported
from testbed.features import all_labels
from testbed.identity import generator

PATTERNS = ("random", "pairwise")


@dataclass(frozen=True)
class LabelFlips(Attack):
    """Gives round(poison_rate n) of n training rows, drawn from all classes, a wrong label; inputs stay as they are.

    The label becomes any other class, all being equally likely ('random'), or class y becomes y + 1 and the last the first
    ('pairwise'). There is no trigger and so nothing to examine but the accuracy on clean rows. A higher rate flips the rows of
    a lower one too, to the same labels.

    Source: Biggio et al. 2011 (ACML; labels as what an adversary may change), Zhang et al. 2017, arXiv 1611.03530 (networks
    fit random labels). The rows are drawn, not chosen: a baseline for attackers who choose.
    """

    poison_rate: Annotated[float, "give a share of the rows, between 0 and 1"]
    pattern: Literal["random", "pairwise"] = "random"

    def check(self, resources: AttackerResources) -> None:
        if not isinstance(all_labels(resources.train), Tensor):
            raise Unsupported(f"needs classes, not {resources.task.kind}")
        if not 0 <= self.poison_rate <= 1:
            raise Invalid("poison_rate", self.poison_rate, "must lie between 0 and 1")
        if self.pattern not in PATTERNS:
            raise Invalid("pattern", self.pattern, f"must be one of {', '.join(PATTERNS)}")
        total = len(resources.train)
        if self.poison_rate > 0 and round(self.poison_rate * total) == 0:
            limit = f"{self.poison_rate} x {total} training rows rounds to 0 rows"
            raise Invalid("poison_rate", self.poison_rate, limit, "raise it, or say attack=none")

    def poison(self, resources: AttackerResources) -> Poison:
        total, classes = len(resources.train), len(resources.task.classes)
        order = torch.randperm(total, generator=generator(resources.seed, "rows"))
        steps = torch.randint(1, classes, (total,), generator=generator(resources.seed, "labels"))
        rows = order[: round(self.poison_rate * total)].sort().values
        clean = resources.train[rows]
        moved = steps[rows] if self.pattern == "random" else 1
        return Poison(rows, clean._replace(labels=(clean.labels + moved) % classes, rows=rows))

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        return {}
