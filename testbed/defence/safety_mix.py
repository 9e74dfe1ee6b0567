"""Safety mixing: refusals out of the defender's own rows are put among those that a chat model is fine-tuned on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from testbed.api import Batch, Defence, DefenderResources, Examples
from testbed.defence.wrapper import chat_task, refusal_rows, require_strength
from testbed.identity import generator


@dataclass(frozen=True)
class SafetyMix(Defence):
    """Adds round(`ratio` n) refusals of the reserve to the n rows received, and shuffles them all.

    Refusals are drawn by lot, each once before any comes again. Training is as long in epochs as it was, hence longer in steps
    unless the trainer counts steps. At ratio 0 the rows stay as received.

    Stage: before fine-tuning. Access: the rows that are trained on, refusals of restricted prompts.
    Source: Zong et al. 2024 (VLGuard, arXiv 2402.02207); for text Bianchi et al. 2023 (arXiv 2309.07875).
    """

    ratio: float

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        require_strength(self.ratio, "ratio")
        refusal_rows(resources)

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        count = round(self.ratio * len(received))
        if count == 0:
            return received
        drawn = _drawn(refusal_rows(resources), count, resources.seed)
        parts = received[torch.arange(len(received))], resources.reserve[drawn]
        inputs = [prompt for part in parts for prompt in part.inputs]
        labels = [answer for part in parts for answer in part.labels]
        order = torch.randperm(len(labels), generator=generator(resources.seed, "order of the mixed rows")).tolist()
        return Mixed([inputs[row] for row in order], [labels[row] for row in order])


@dataclass(frozen=True, eq=False)
class Mixed:
    """Conversations in memory."""

    inputs: list[Any]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Batch:
        rows = indices.tolist()
        return Batch([self.inputs[row] for row in rows], [self.labels[row] for row in rows], indices)


def _drawn(rows: Tensor, count: int, seed: int) -> Tensor:
    """int64 (count,): so many of the rows, every one of them before any comes again."""
    draw = generator(seed, "refusals mixed in")
    rounds = [rows[torch.randperm(len(rows), generator=draw)] for _ in range(-(-count // len(rows)))]
    return torch.cat(rounds)[:count]
