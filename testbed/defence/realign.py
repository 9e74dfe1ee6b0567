"""Re-alignment: a tuned model is tuned once more, on a few of the defender's refusals and as many harmless answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import Defence, DefenderResources, Invalid, Victim
from testbed.defence.wrapper import chat_task
from testbed.features import all_labels, select
from testbed.identity import generator
from testbed.language import refuses


@dataclass(frozen=True)
class Realign(Defence):
    """Fine-tunes for `steps` steps on `rows` refusals of the reserve and as many of its harmless answers, drawn by seed.

    The batch size and the schedule are the trainer's; without steps or rows nothing happens.

    Stage: after fine-tuning. Access: gradients, the reserve's rows.
    Source: as a baseline in Qi et al. 2023, arXiv 2310.03693, and Huang et al. 2024, arXiv 2408.09600.
    """

    rows: int
    steps: int
    optimiser: Callable[..., torch.optim.Optimizer]

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        for name, value in (("rows", self.rows), ("steps", self.steps)):
            if value < 0:
                raise Invalid(name, value, "must be at least 0")
        most = int(reserve_kinds(resources).bincount(minlength=2).min())
        if self.rows > most:
            raise Invalid("rows", self.rows, f"the reserve has no more than {most} refusals and as many other answers")

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        if not (self.rows and self.steps):
            return victim
        chosen = select(resources.reserve, self._drawn(resources))
        return resources.fit(victim, chosen, steps=self.steps, optimiser=self.optimiser)

    def _drawn(self, resources: DefenderResources) -> Tensor:
        """int64 (2 rows,): places in the reserve."""
        kinds = reserve_kinds(resources)
        order = torch.randperm(len(kinds), generator=generator(resources.seed, "rows of the re-alignment"))
        return torch.cat([order[kinds[order] == kind][: self.rows] for kind in (1, 0)])


def reserve_kinds(resources: DefenderResources) -> Tensor:
    """int64 (n,): 1 where the reserve's answer begins as a refusal does, else 0."""
    return refuses(all_labels(resources.reserve), chat_task(resources).refusals).long()
