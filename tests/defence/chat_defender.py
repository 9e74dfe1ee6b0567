"""Training, and models a little apart, for tests of defences of chat models."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch

from testbed.api import Batch, Examples, Victim
from testbed.fit import Settings, constant, fit
from testbed.language import ChatVictim

ADAMW = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0)
SETTINGS = Settings(max_epochs=1, batch_size=8, optimiser=ADAMW, schedule=constant, channels_last=False, threads=1)


def tuned(victim: Victim, examples: Examples, **options: Any) -> Victim:
    return fit(victim, examples, settings=SETTINGS, seed=3, **options)[0].bare()


def moved(victim: ChatVictim, seed: int, size: float = 0.05) -> ChatVictim:
    """A copy with noise on every weight."""
    found, draw = copy.deepcopy(victim), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    return found


def equal(one: Victim, other: Victim) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def some(examples: Examples, count: int = 6) -> Batch:
    return examples[torch.arange(count)]
