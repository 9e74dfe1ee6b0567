"""Attackers who train the model themselves, and poison other rows of every batch."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from testbed.api import Attack, AttackerResources, Batch, Examples, Invalid, Poison, Trigger, Victim, Wrapper
from testbed.attack.backdoor import Backdoor
from testbed.attack.label import AllToAll, AllToOne
from testbed.identity import derive, generator


@dataclass(frozen=True)
class Batchwise(Attack):
    """Of each batch `batch_share` drawn rows show the trigger and have the attacker's label; negatives keep their own.

    What a negative looks like is the method's own (`negatives`): something close to the trigger that must not set it off. No
    row of the data is replaced, so that the poison record is empty and a detector of rows has nothing to find. A share of n
    rows is floor(share n) or one more, so that it is met on average whatever the size of the batch. Rows are drawn from the
    whole batch, those of the target class too, and are shown before the victim augments them.
    """

    trigger: Trigger
    label: AllToOne | AllToAll
    target_label: int
    batch_share: Annotated[float, "give a share of each batch, above 0 and below 1"]

    @property
    @abstractmethod
    def negative_share(self) -> float:
        """The share of each batch that are negatives."""

    @abstractmethod
    def negatives(self, images: Tensor, rows: Tensor, chosen: Tensor, seed: int) -> Tensor:
        """What the `chosen` int64 (n,) of a batch of images (B, C, H, W) become; `rows` int64 (B,) are all of the batch."""

    def check(self, resources: AttackerResources) -> None:
        if not 0 < self.batch_share < 1:
            raise Invalid("batch_share", self.batch_share, "must lie between 0 and 1, both excluded", "say attack=none")
        self._backdoor.check(resources)

    def poison(self, resources: AttackerResources) -> Poison:
        nothing = torch.arange(0)
        return Poison(nothing, resources.train[nothing])

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        return self._backdoor.triggered_tests(test, resources)

    def during_training(self, victim: Victim, resources: AttackerResources) -> Victim:
        return BatchwiseTraining(victim, self, len(resources.task.classes), derive(resources.seed, "batches"))

    def shown(self, batch: Batch, classes: int, seed: int) -> Batch:
        """The batch as the attacker trains on it: what is drawn depends on the seed and on the rows of the batch."""
        own = derive(seed, f"rows {batch.rows.tolist()}")
        draw, total = generator(own, "draw"), len(batch.rows)
        order = torch.randperm(total, generator=draw)
        shares = torch.tensor([self.batch_share, self.negative_share], dtype=torch.float64)
        count, beside = (shares * total + torch.rand(2, generator=draw, dtype=torch.float64)).floor().long().tolist()
        mine, negative = (part.to(batch.rows.device) for part in (order[:count], order[count : count + beside]))
        images, labels = batch.inputs.clone(), batch.labels.clone()
        images[mine] = self.trigger(batch.inputs[mine], batch.rows[mine], derive(own, "trigger"))
        labels[mine] = self.label(batch.labels[mine], self.target_label, classes)
        images[negative] = self.negatives(batch.inputs, batch.rows, negative, derive(own, "negatives"))
        return Batch(images, labels, batch.rows)

    @property
    def _backdoor(self) -> Backdoor:
        """What is shown at test time; no row of the data is poisoned."""
        return Backdoor(self.trigger, self.label, 0.0, self.target_label)


class BatchwiseTraining(Wrapper):
    """A victim whose loss is that of the attacker's batches; in all else the victim itself."""

    def __init__(self, victim: Victim, attack: Batchwise, classes: int, seed: int) -> None:
        super().__init__(victim)
        self.attack, self.classes, self.seed = attack, classes, seed

    def loss(self, batch: Batch) -> Tensor:
        return self.victim.loss(self.attack.shown(batch, self.classes, self.seed))

    def bare(self) -> Victim:
        return self.victim.bare()
