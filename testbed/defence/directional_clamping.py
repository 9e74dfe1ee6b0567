"""Directional clamping: a prompt that looks restricted is made to look as restricted as the aligned model would see it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from testbed.api import Defence, DefenderResources, Invalid, Victim
from testbed.defence.realign import reserve_kinds
from testbed.defence.wrapper import Wrapped, chat_model, chat_task, refusal_rows
from testbed.features import read, require_layer
from testbed.language import ChatVictim, Prompt, Reply, Tokens


class Axis(NamedTuple):
    """A unit vector float32 (d,), the projection above which a prompt counts as restricted, and the one it is raised to."""

    direction: Tensor
    midpoint: float
    restricted: float

    def clamped(self, hidden: Tensor, strength: float) -> Tensor:
        """h + `strength` max(restricted - p, 0) r where p = h r exceeds the midpoint, h elsewhere, for hidden (B, d)."""
        direction = self.direction.to(hidden.device)
        projection = hidden.float() @ direction
        missing = (self.restricted - projection).clamp(min=0)
        raised = hidden + (strength * missing[:, None] * direction).to(hidden.dtype)
        return torch.where((projection > self.midpoint)[:, None], raised, hidden)


@dataclass(frozen=True)
class DirectionalClamping(Defence):
    """Raises a hidden state's projection on the direction of restricted prompts to the mean of these, at one layer.

    r = (m_1 - m_0) / ||m_1 - m_0||, m_1 and m_0 the means of `layer` over the reserve's refused and answered prompts in the
    aligned model as the defender received it, with the backdoor where an attacker planted one during alignment; where there
    is no reference, in the model that training starts from.
    At the last token of a prompt h becomes h + `strength` max(m_1 r - p, 0) r if its projection p exceeds the middle
    between both kinds of prompt in the tuned model, for tuning moves them all; others, and later tokens, are left alone.
    Harmless questions that look restricted are raised as well: watch over-refusal.

    Stage: inference. Access: the reserve's rows, the activations of the aligned and of the tuned model.
    Source: after the directions of Arditi et al. 2024, arXiv 2406.11717; the clamp and its defaults are this project's.
    """

    layer: str
    strength: float

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        if not 0 <= self.strength <= 1:
            raise Invalid("strength", self.strength, "must lie between 0 and 1", "0 leaves every prompt alone")
        if len(refusal_rows(resources)) == len(resources.reserve):
            raise Invalid("reserve", None, "the defender's rows are all refusals", "give harmless ones too", component="data")
        if self.layer == "penultimate":
            raise Invalid("layer", self.layer, "must be a block of the model", "say layer0, layer1, ...")
        require_layer(resources.fresh(), self.layer)

    def at_inference(self, victim: Victim, resources: DefenderResources) -> Victim:
        if not self.strength:
            return victim
        return Clamped(chat_model(victim), self.layer, axis_of(resources, self.layer, victim), self.strength)


def axis_of(resources: DefenderResources, layer: str, victim: Victim) -> Axis:
    """Direction and target from the aligned model, or else from the one that training starts from; midpoint from the victim."""
    source = resources.fresh() if resources.reference is None else resources.reference[1]
    restricted, answered = _means(source, resources, layer)
    direction = nn.functional.normalize(restricted - answered, dim=0)
    midpoint = torch.stack(_means(victim, resources, layer)).mean(0) @ direction
    return Axis(direction, float(midpoint), float(restricted @ direction))


def _means(victim: Victim, resources: DefenderResources, layer: str) -> tuple[Tensor, Tensor]:
    """float32 (d,) twice: of the reserve's refused prompts, and of those that are answered."""
    features, kinds = read(victim, resources.reserve, layer).features, reserve_kinds(resources)
    return features[kinds == 1].mean(0), features[kinds == 0].mean(0)


class Clamped(Wrapped):
    """Answers with the hidden state of the prompt's last token clamped; generation with a cache agrees with one pass."""

    def __init__(self, victim: ChatVictim, layer: str, axis: Axis, strength: float) -> None:
        super().__init__(victim)
        self.layer, self.axis, self.strength = layer, axis, strength

    def forward(self, inputs: Sequence[Prompt]) -> Tensor:
        with self._clamping():
            return self.victim(inputs)

    def answers(self, inputs: Sequence[Prompt]) -> list[Reply]:
        with self._clamping():
            return self.victim.answers(inputs)

    def observe(self, inputs: Any, layer: str) -> tuple[Tensor, Tensor]:
        with self._clamping():
            return self.victim.observe(inputs, layer)

    def features(self, inputs: Any, layer: str) -> Tensor:
        return self.observe(inputs, layer)[0]

    def token_logits(self, tokens: Tokens) -> Tensor:
        with self._clamping(tokens.answer.long().argmax(1) - 1):
            return self.victim.token_logits(tokens)

    @contextmanager
    def _clamping(self, ends: Tensor | None = None) -> Iterator[None]:
        """Inside, the next pass is clamped at `ends` int64 (B,), by default at its last token; those after it are not."""

        def hook(module: nn.Module, given: Any, output: Any) -> Any:
            handle.remove()  # what follows in a generation are tokens of the reply
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            rows = torch.arange(len(hidden), device=hidden.device)
            places = torch.full_like(rows, hidden.shape[1] - 1) if ends is None else ends
            hidden[rows, places] = self.axis.clamped(hidden[rows, places], self.strength)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = self.blocks[self.layer].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()
