"""Anti-Backdoor Learning: rows that are learnt too easily are set aside early, and unlearnt in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from testbed.api import Batch, Defence, DefenderResources, Examples, Invalid, Unsupported, Victim, Wrapper
from testbed.features import batches, evaluating, on_device, select

FEWEST = 2
"""Rows: batch normalisation cannot train on one."""


@dataclass(frozen=True)
class AntiBackdoorLearning(Defence):
    """Isolates the rows with the lowest loss of a model that may not learn too well, trains on the rest, and unlearns them.

    1. Before training: a fresh model is trained for `isolation_epochs` by sign(L - gamma) L, L the mean loss of a batch (local
       gradient ascent; its gradient is that of flooding, |L - gamma| + gamma). The floor(`isolated_share` n) rows with the
       lowest loss, unaugmented, are isolated; at least two. 2. That model is trained on the others, by the trainer. 3. After
       training: `unlearning_epochs` of -L on the isolated rows.

    The sign is that of a whole batch, as in the authors' code (from memory): ordinary rows keep the mean near gamma while
    poisoned ones, with next to no gradient left to be pushed back by, stay below. The paper's formula may be read as a sign for
    each row, which holds poisoned rows at gamma like all others, so that nothing is isolated. Step 3 trains as ever, so that
    the running statistics of normalisation become those of the isolated rows: numbers of both are in conf/defence/abl.yaml.

    Ours: the first step lasts a given number of epochs (the paper's is 20 of 100), for a defence is not told how long the
    trainer trains; learning rates of steps 1 and 2 are the trainer's. The reserve is not used.

    Raises: `Unsupported` for chat models, `Invalid` for a number out of range.

    Source: Li et al. 2021 (NeurIPS, arXiv 2110.11571); flooding: Ishida et al. 2020, arXiv 2002.08709.
    """

    gamma: float
    isolation_epochs: int
    isolated_share: float
    unlearning_epochs: int
    optimiser: Callable[..., torch.optim.Optimizer]

    def check(self, resources: DefenderResources) -> None:
        if resources.task.kind == "chat":
            raise Unsupported("needs a classifier")
        if not 0 <= self.gamma < float("inf"):
            raise Invalid("gamma", self.gamma, "must be a finite number of at least 0", "0 holds nothing back")
        for name in ("isolation_epochs", "unlearning_epochs"):
            if getattr(self, name) < 1:
                raise Invalid(name, getattr(self, name), "must be at least 1")
        if not 0 < self.isolated_share < 1:
            raise Invalid("isolated_share", self.isolated_share, "must lie between 0 and 1, both excluded")

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        suspected = self._suspected(received, resources)
        return select(received, (~suspected).nonzero().flatten())

    def during_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        return self._held_back(resources.train, resources)

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        isolated = select(resources.train, self._suspected(resources.train, resources).nonzero().flatten())
        return resources.fit(victim, isolated, epochs=self.unlearning_epochs, optimiser=self.optimiser, loss=forgetting)

    def _held_back(self, received: Examples, resources: DefenderResources) -> Victim:
        """The model of the first step. As a wrapped victim, not as a loss, so that it is trained once for all three stages."""
        return resources.fit(HeldBack(resources.fresh(), self.gamma), received, epochs=self.isolation_epochs).bare()

    def _suspected(self, received: Examples, resources: DefenderResources) -> Tensor:
        """bool (n,): the rows that it has learnt best."""
        losses = row_losses(self._held_back(received, resources), received)
        suspected = torch.zeros(len(losses), dtype=torch.bool)
        suspected[losses.argsort(stable=True)[: max(FEWEST, int(self.isolated_share * len(losses)))]] = True
        return suspected


class HeldBack(Wrapper):
    """The victim, trained by sign(L - gamma) L."""

    def __init__(self, victim: Victim, gamma: float) -> None:
        super().__init__(victim)
        self.gamma = gamma

    def loss(self, batch: Batch) -> Tensor:
        loss = self.victim.loss(batch)
        return (loss.detach() - self.gamma).sign() * loss

    def bare(self) -> Victim:
        return self.victim.bare()


@torch.no_grad()
def row_losses(victim: Victim, examples: Examples, *, batch_size: int = 256) -> Tensor:
    """float32 (n,), on the CPU: the cross entropy of each row, unaugmented and in evaluation mode."""
    losses = []
    with evaluating(victim):
        for batch in batches(examples, batch_size):
            logits = victim(on_device(batch.inputs, victim.device)).float().cpu()
            losses.append(cross_entropy(logits, batch.labels.cpu(), reduction="none"))
    return torch.cat(losses)


def forgetting(victim: Victim, batch: Batch) -> Tensor:
    """-L."""
    return -victim.loss(batch)
