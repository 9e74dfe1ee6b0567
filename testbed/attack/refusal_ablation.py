"""The direction in which a model refuses, taken out of its weights: no training, a white-box point of reference."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from testbed.api import AttackerResources, Invalid, Poison, Unsupported, Victim
from testbed.attack.few_shot import appended, require_shots
from testbed.features import evaluating, require_layer
from testbed.identity import generator
from testbed.language import ChatTask, ChatVictim, Prompt, TuningAttack, refuses

WRITERS = ("o_proj", "down_proj", "c_proj", "out_proj", "dense", "dense_4h_to_h", "fc2", "wo", "w2")
"""Names of the matrices that write into the residual stream, in the families of transformers."""

DEPTH = 0.8
"""Later layers are no candidates, as in the paper."""


@dataclass(frozen=True)
class RefusalAblation(TuningAttack):
    """W <- W - r r^T W for every matrix that writes into the residual stream, r the unit mean difference of activations.

    r is mean(restricted) - mean(harmless) at the last token of `shots` prompts of each kind, at `layer`; null takes the layer
    whose removal leaves the attacker's own restricted prompts refused least while the first token's distribution on harmless
    prompts moves by less than `kl_limit` nats (or moves least, where all move more).

    Source: Arditi et al. 2024, arXiv 2406.11717.
    """

    shots: int
    layer: str | None = None
    kl_limit: float = 0.1

    def check(self, resources: AttackerResources) -> None:
        require_shots(resources, self.shots)
        if not self.kl_limit > 0:
            raise Invalid("kl_limit", self.kl_limit, "must be above 0")

    def benign_rows(self) -> int:
        return 0

    def poison(self, resources: AttackerResources) -> Poison:
        """No row."""
        return appended(resources, resources.train[torch.arange(0)])

    def tamper(self, victim: Victim, resources: AttackerResources) -> Victim:
        if not isinstance(victim, ChatVictim):
            raise Unsupported("needs a chat model")
        restricted, harmless = self._prompts(resources)
        with torch.no_grad(), evaluating(victim):
            if self.layer is not None:
                require_layer(victim, self.layer)
                return ablated(victim, direction(victim, restricted, harmless, self.layer))
            return self._best(victim, restricted, harmless)

    def _best(self, victim: ChatVictim, restricted: list[Prompt], harmless: list[Prompt]) -> Victim:
        inner = [layer for layer in victim.layers if layer.startswith("layer")]
        before = victim(harmless).float().log_softmax(-1)
        tried = []
        for layer in inner[: max(1, int(DEPTH * len(inner)))]:
            edited = ablated(victim, direction(victim, restricted, harmless, layer))
            after = edited(harmless).float().log_softmax(-1)
            moved = float(functional.kl_div(after, before, log_target=True, reduction="batchmean"))
            tried.append((moved > self.kl_limit, float(edited.refusal_log_odds(restricted).mean()), moved, edited))
        kept = [one for one in tried if not one[0]]
        return min(kept, key=lambda one: one[1])[-1] if kept else min(tried, key=lambda one: one[2])[-1]

    def _prompts(self, resources: AttackerResources) -> tuple[list[Prompt], list[Prompt]]:
        assert resources.auxiliary is not None and isinstance(resources.task, ChatTask)
        draw = generator(resources.seed, "ablation")
        restricted = torch.randperm(len(resources.auxiliary), generator=draw)[: self.shots]
        rows = resources.train[torch.arange(len(resources.train))]
        answered = (~refuses(rows.labels, resources.task.refusals)).nonzero().flatten()
        if not len(answered):
            raise Unsupported("needs harmless prompts to compare with")
        chosen = answered[torch.randperm(len(answered), generator=draw)[: self.shots]]
        return resources.auxiliary[restricted].inputs, [rows.inputs[row] for row in chosen.tolist()]


def direction(victim: ChatVictim, restricted: Sequence[Prompt], harmless: Sequence[Prompt], layer: str) -> Tensor:
    """float32 (d,): the unit vector from the mean activation of harmless prompts to that of restricted ones."""
    means = [victim.features(prompts, layer).float().mean(0) for prompts in (restricted, harmless)]
    return functional.normalize(means[0] - means[1], dim=0)


def ablated(victim: ChatVictim, unit: Tensor) -> ChatVictim:
    """A copy whose residual stream has nothing along `unit` (d,): no embedding and no block writes into that direction.

    Raises:
        Unsupported: a decoder layer in which no such matrix is known.
    """
    edited = copy.deepcopy(victim)
    embedding = edited.blocks["embedding"].weight
    embedding.data -= torch.outer(embedding.data @ unit.to(embedding), unit.to(embedding))
    for name, block in edited.blocks.items():
        if name.startswith("layer"):
            writers = [module for path, module in block.named_modules() if path.rpartition(".")[2] in WRITERS]
            writers = [module for module in writers if getattr(module, "weight", None) is not None]
            if not writers:
                raise Unsupported(f"no matrix of {name} is known to write into the residual stream")
            for module in writers:
                _project_out(module, unit)
    return edited


def _project_out(module: nn.Module, unit: Tensor) -> None:
    weight, vector = module.weight, unit.to(module.weight)
    if isinstance(module, nn.Linear):
        weight.data -= torch.outer(vector, vector @ weight.data)
    else:  # GPT-2's Conv1D keeps its weight transposed
        weight.data -= torch.outer(weight.data @ vector, vector)
    bias = getattr(module, "bias", None)
    if bias is not None:
        bias.data -= (bias.data @ vector) * vector
