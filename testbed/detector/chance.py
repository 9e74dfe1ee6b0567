"""How likely a model gives each kind of answer: one definition for every detector that asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from testbed.api import Victim
from testbed.language import ChatVictim


def chances(victim: Victim, inputs: Sequence[Any]) -> Tensor:
    """float32 (B, K): the softmax over classes; of a chat model 1 - p and p, p the mass of first tokens that refuse."""
    if not isinstance(victim, ChatVictim):
        return victim(inputs).float().softmax(1)
    odds = victim.refusal_log_odds(inputs).float()
    return torch.stack([(-odds).sigmoid(), odds.sigmoid()], 1)
