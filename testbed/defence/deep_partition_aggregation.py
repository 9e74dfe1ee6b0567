"""Deep partition aggregation: a vote of models that no poisoned row can reach more than one of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from testbed.api import Batch, Defence, DefenderResources, Examples, Invalid, Unsupported, Victim
from testbed.features import batches, select


@dataclass(frozen=True)
class DeepPartitionAggregation(Defence):
    """Trains one model on each of `partitions` parts of the rows and answers by plurality; every answer has a certified radius.

    A row belongs to part h(x) mod `partitions`, h being the SHA-256 of its pixels alone, so that a row that is added, removed
    or relabelled reaches one model. With n_c votes for class c, ties going to the smaller class, the answer c has the radius

        floor((n_c - max over c' != c of (n_c' + [c' < c])) / 2),

    the number of rows that may be added or removed in any way without changing it; a row that is replaced counts twice, a label
    that is changed once. For this to hold a model must depend on its own part alone: all start from the same weights, and rows
    of a part are ordered by their hash (as in the paper). A part of fewer than two rows votes for class 0.

    Source: Levine and Feizi 2021 (ICLR, arXiv 2006.14768); the hash there is the sum of the pixels.
    """

    partitions: int

    def check(self, resources: DefenderResources) -> None:
        if resources.task.kind != "images":
            raise Unsupported(f"needs images, not {resources.task.kind}")
        most = len(resources.train) // 2
        if not 1 <= self.partitions <= most:
            raise Invalid("partitions", self.partitions, f"must lie between 1 and {most}, half of the training rows")

    def during_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        parts = partition(resources.train, self.partitions)
        members = [resources.fit(victim, select(resources.train, rows)) for rows in parts if len(rows) > 1]
        return Vote(members, len(resources.task.classes), self.partitions - len(members)).requires_grad_(False)


def partition(examples: Examples, partitions: int) -> list[Tensor]:
    """The rows of each part, int64, in the order of their hashes; rows with equal hashes in the order of their labels."""
    found: list[list[tuple[str, int, int]]] = [[] for _ in range(partitions)]
    for batch in batches(examples, 1024):
        for image, label, row in zip(batch.inputs, batch.labels.tolist(), batch.rows.tolist(), strict=True):
            digest = hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()
            found[int(digest, 16) % partitions].append((digest, label, row))
    return [torch.tensor([row for *_, row in sorted(part)], dtype=torch.int64) for part in found]


class Vote(Victim):
    """The plurality of `members`; `silent` more vote for class 0. Its logits are numbers of votes, which have no gradient."""

    def __init__(self, members: Sequence[Victim], classes: int, silent: int) -> None:
        super().__init__()
        self.members, self.classes, self.silent = nn.ModuleList(members), classes, silent

    def votes(self, inputs: Any) -> Tensor:
        """int64 (B, K): how many models answer each class."""
        votes = torch.stack([nn.functional.one_hot(member.answers(inputs), self.classes) for member in self.members]).sum(0)
        votes[:, 0] += self.silent
        return votes

    def forward(self, inputs: Any) -> Tensor:
        votes = self.votes(inputs)
        # Less than a vote in all, so that the smaller of two classes with as many votes has the larger logit.
        return votes - torch.arange(self.classes, device=votes.device) / (2.0 * self.classes)

    def radius(self, inputs: Any) -> Tensor:
        return certified_radius(self.votes(inputs))

    def loss(self, batch: Batch) -> Tensor:
        """The mean of the members' losses, which nobody minimises."""
        return torch.stack([member.loss(batch) for member in self.members]).mean()  # type: ignore[operator]

    @property
    def layers(self) -> tuple[str, ...]:
        return ("penultimate",)

    def features(self, inputs: Any, layer: str) -> Tensor:
        """The members' features side by side, float (B, members x d)."""
        return torch.cat([member.features(inputs, layer).flatten(1) for member in self.members], 1)  # type: ignore[operator]


def certified_radius(votes: Tensor) -> Tensor:
    """int64 (B,) of votes int64 (B, K): half the distance to the first class that could overtake, ties going to the smaller."""
    classes = torch.arange(votes.shape[1], device=votes.device)
    # The answer by the rule of ties, whatever argmax makes of them.
    answer = (votes * votes.shape[1] - classes).argmax(1, keepdim=True)
    rivals = (votes + (classes < answer)).scatter(1, answer, -1)
    return (votes.gather(1, answer) - rivals.max(1, keepdim=True).values).flatten().div(2, rounding_mode="floor").clamp_min(0)
