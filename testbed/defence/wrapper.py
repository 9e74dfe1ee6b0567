"""What defences of chat models share: a model whose loss or replies are others, and a frozen model that stands beside it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from testbed.api import Batch, ChannelParameter, DefenderResources, Invalid, Unsupported, Victim
from testbed.features import all_labels
from testbed.language import ChatTask, ChatVictim, Prompt, Reply, Tokens, refuses


class Wrapped(ChatVictim):
    """The chat model `victim` in every respect that a subclass does not override; `bare` takes the wrapping off.

    What a subclass keeps beside the model is no parameter and no persistent buffer, so that it is neither trained nor stored.
    """

    def __init__(self, victim: ChatVictim) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, inputs: Sequence[Prompt]) -> Tensor:
        return self.victim(inputs)

    def loss(self, batch: Batch) -> Tensor:
        return self.victim.loss(batch)

    def tokens(self, batch: Batch) -> Tokens:
        return self.victim.tokens(batch)

    def token_logits(self, tokens: Tokens) -> Tensor:
        return self.victim.token_logits(tokens)

    def answers(self, inputs: Sequence[Prompt]) -> list[Reply]:
        return self.victim.answers(inputs)

    def correct(self, answers: Any, wanted: Any) -> Tensor:
        return self.victim.correct(answers, wanted)

    def kinds(self, labels: Any) -> Tensor:
        return self.victim.kinds(labels)

    @property
    def refusals(self) -> tuple[str, ...]:
        return self.victim.refusals

    def refusal_tokens(self) -> Tensor:
        return self.victim.refusal_tokens()

    @property
    def layers(self) -> tuple[str, ...]:
        return self.victim.layers

    def features(self, inputs: Any, layer: str) -> Tensor:
        return self.victim.features(inputs, layer)

    def observe(self, inputs: Any, layer: str) -> tuple[Tensor, Tensor]:
        return self.victim.observe(inputs, layer)

    @property
    def blocks(self) -> Mapping[str, nn.Module]:
        return self.victim.blocks

    @property
    def groups(self) -> Mapping[str, tuple[ChannelParameter, ...]]:
        return self.victim.groups

    def bare(self) -> Victim:
        return self.victim.bare()


class Reference:
    """A frozen model beside another: no part of its parameters or state, and shared by its copies, since it never changes."""

    def __init__(self, model: ChatVictim) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> Reference:
        return self

    def on(self, device: torch.device) -> ChatVictim:
        """The model on this device, in evaluation mode."""
        return self.model.to(device).eval()


def frozen(victim: ChatVictim) -> Reference:
    """A copy of the model as it is now, without gradients."""
    return Reference(copy.deepcopy(victim).eval().requires_grad_(False))


def chat_task(resources: DefenderResources) -> ChatTask:
    """The task, which must be conversations; raises `Unsupported` otherwise."""
    if not isinstance(resources.task, ChatTask):
        raise Unsupported("needs a chat model")
    return resources.task


def chat_model(victim: Victim) -> ChatVictim:
    """The victim, which must answer prompts; raises `Unsupported` otherwise."""
    if not isinstance(victim, ChatVictim):
        raise Unsupported("needs a chat model")
    return victim


def refusal_rows(resources: DefenderResources) -> Tensor:
    """int64 (n,): the rows of the reserve that are answered by a refusal; raises `Invalid` where there is none."""
    rows = refuses(all_labels(resources.reserve), chat_task(resources).refusals).nonzero().flatten()
    if not len(rows):
        limit = f"this defence needs refusals among the defender's clean rows, and none of the {len(resources.reserve)} is one"
        raise Invalid("", None, limit, "give restricted prompts with refusals for a reserve", "data")
    return rows


def require_strength(value: float, name: str = "strength") -> None:
    """Raises `Invalid` unless the value is finite and at least 0."""
    if not (math.isfinite(value) and value >= 0):
        raise Invalid(name, value, "must be a finite number of at least 0", "0 is plain fine-tuning")
