"""Reconstructive neuron pruning: unlearn the clean task, let channel masks recover it, prune the channels they silence."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from testbed.api import Batch, Defence, DefenderResources, Examples, Victim
from testbed.defence.channel_mask import (
    MOMENTUM,
    channels,
    drawn_alike,
    learned,
    passes,
    pruned,
    require_channels,
    require_count,
    require_range,
    trial_copy,
)
from testbed.features import accuracy
from testbed.identity import generator

WEIGHT_DECAY = 5e-4
"""While unlearning, as in the authors' code."""

THRESHOLDS = tuple(step / 20 for step in range(19))
"""0, .05, ..., .9, as in the authors' code."""


@dataclass(frozen=True)
class RNP(Defence):
    """Ascends the loss on the reserve, then descends it by channel masks alone; the channels that these silence are pruned.

    1. Unlearn: SGD up the training loss until accuracy on the reserve is `least_accuracy` or less, or `unlearning_epochs`
    have passed. 2. Recover: min over m in [0, 1]^n of `recovering_weight` L(m w, b) by SGD from m = 1, w and b the weights
    and biases of the unlearned model's batch normalisation. 3. Prune: in the model as it was, w_c = 0 where m_c <= t.

    The paper fixes no t; the authors' code lists test results for t = 0, .05, ..., .9. Here t is the largest of these up to
    which accuracy on the reserve stays at or above (1 - `max_drop`) times what it was: a rule of ours, with no test row in it.
    From the authors' code are momentum .9, weight decay 5e-4 while unlearning, the statistics of the batch in steps 1 and 2
    and in the accuracy of step 1, and the weight of .2; a fall of the rate after 10 epochs is left out.

    Stage: after training. Access: gradients, the reserve. Source: Li et al. 2023 (ICML, arXiv 2305.14876).
    """

    unlearning_epochs: int
    unlearning_rate: float
    least_accuracy: float
    recovering_epochs: int
    recovering_rate: float
    recovering_weight: float
    batch_size: int
    max_drop: float

    def check(self, resources: DefenderResources) -> None:
        for name in ("unlearning_epochs", "recovering_epochs", "batch_size"):
            require_count(name, getattr(self, name))
        for name in ("unlearning_rate", "recovering_rate", "recovering_weight"):
            require_range(name, getattr(self, name), 0)
        for name in ("least_accuracy", "max_drop"):
            require_range(name, getattr(self, name), 0, 1)
        require_channels(resources)

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        mask = self.recovered(self.unlearned(victim, resources), resources)
        return cut(victim, mask, resources.reserve, self.max_drop)

    def unlearned(self, victim: Victim, resources: DefenderResources) -> Victim:
        """A copy that has lost the clean task."""
        lost = copy.deepcopy(victim).train()
        optimiser = torch.optim.SGD(lost.parameters(), self.unlearning_rate, MOMENTUM, weight_decay=WEIGHT_DECAY)
        order = generator(resources.seed, "rnp unlearning order")
        passing = passes(resources.reserve, self.batch_size, victim.device, order)
        for epoch, batches in enumerate(islice(passing, self.unlearning_epochs)):
            with drawn_alike(resources.seed, "rnp unlearning", epoch):
                for batch in batches:
                    optimiser.zero_grad()
                    (-lost.loss(batch)).backward()
                    optimiser.step()
            if share_correct(lost, batches) <= self.least_accuracy:
                break
        return lost

    def recovered(self, lost: Victim, resources: DefenderResources) -> Tensor:
        """float32 (n,) in [0, 1]: the mask under which the unlearned model does the clean task again."""
        found = channels(trial_copy(lost))
        order = generator(resources.seed, "rnp recovering order")
        passing = islice(passes(resources.reserve, self.batch_size, lost.device, order), self.recovering_epochs)
        batches = (batch for one in passing for batch in one)

        def loss(mask: Tensor, batch: Batch, step: int) -> Tensor:
            with drawn_alike(resources.seed, "rnp recovering", step):
                return self.recovering_weight * found.loss(batch, mask)

        return learned(torch.ones(len(found), device=lost.device), batches, loss, self.recovering_rate)


@torch.no_grad()
def share_correct(victim: Victim, batches: list[Batch]) -> float:
    """Share of right answers in the mode that the victim is in: in training mode, by the statistics of each batch."""
    right = [victim.correct(victim.answers(batch.inputs), batch.labels) for batch in batches]
    return torch.cat(right).float().mean().item()


def cut(victim: Victim, mask: Tensor, reserve: Examples, max_drop: float) -> Victim:
    """The victim pruned at the largest threshold up to which accuracy on the reserve never fell below (1 - max_drop) of it."""
    least = (1 - max_drop) * accuracy(victim, reserve)
    chosen = copy.deepcopy(victim)
    for threshold in THRESHOLDS:
        tried = pruned(victim, mask > threshold)
        if accuracy(tried, reserve) < least:
            break
        chosen = tried
    return chosen
