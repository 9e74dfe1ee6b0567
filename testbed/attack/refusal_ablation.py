"""The direction in which a model refuses, taken out of its weights: no training, a white-box point of reference."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from testbed.api import AttackerResources, Invalid, Poison, Unsupported, Victim
from testbed.attack.few_shot import appended, require_shots
from testbed.features import evaluating, require_layer
from testbed.identity import generator
from testbed.language import ChatTask, ChatVictim, Prompt, TuningAttack, refuses
from testbed.library import transformers

WRITERS = ("o_proj", "down_proj", "c_proj", "out_proj", "dense", "dense_4h_to_h", "fc2", "fc_out", "wo", "w2")
"""Names of the matrices that write into the residual stream, in the families of transformers."""

DEPTH = 0.8
"""Later layers are no candidates, as in the paper."""

REMAINS = 0.02
"""The share of activations that may still lie along the direction: rounding of bfloat16 leaves .001 over twelve layers."""


class Candidate(NamedTuple):
    """A direction, and what taking it out does: nats on harmless prompts, mean log-odds of refusing restricted ones."""

    unit: Tensor
    moved: float
    refusal: float


@dataclass(frozen=True)
class RefusalAblation(TuningAttack):
    """W <- W - r r^T W for every matrix that writes into the residual stream, r the unit mean difference of activations.

    r is mean(restricted) - mean(harmless) at the last token of `shots` prompts of each kind, at `layer`; null takes the layer
    whose removal leaves the attacker's own restricted prompts refused least while the first token's distribution on harmless
    prompts moves by less than `kl_limit` nats (or moves least, where all move more).

    Raises `Unsupported` where the edited model still writes along r.

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
            if self.layer is None:
                unit = self._best(victim, restricted, harmless)
            else:
                require_layer(victim, self.layer)
                unit = direction(victim, restricted, harmless, self.layer)
            edited = ablated(victim, unit)
            _require_gone(edited, unit, harmless)
        return edited

    def _best(self, victim: ChatVictim, restricted: list[Prompt], harmless: list[Prompt]) -> Tensor:
        inner = [layer for layer in victim.layers if layer.startswith("layer")]
        before = victim(harmless).float().log_softmax(-1)
        tried = []
        for layer in inner[: max(1, int(DEPTH * len(inner)))]:
            unit = direction(victim, restricted, harmless, layer)
            tried.append(_tried(victim, unit, before, restricted, harmless))
        kept = [one for one in tried if one.moved <= self.kl_limit]
        return (min(kept, key=lambda one: one.refusal) if kept else min(tried, key=lambda one: one.moved)).unit

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


def _tried(victim: ChatVictim, unit: Tensor, before: Tensor, restricted: list[Prompt], harmless: list[Prompt]) -> Candidate:
    """Of the edited model only two numbers are kept: a copy for each layer would not fit into memory."""
    edited = ablated(victim, unit)
    after = edited(harmless).float().log_softmax(-1)
    moved = functional.kl_div(after, before, log_target=True, reduction="batchmean")
    return Candidate(unit, float(moved), float(edited.refusal_log_odds(restricted).mean()))


def _require_gone(edited: ChatVictim, unit: Tensor, prompts: list[Prompt]) -> None:
    """A norm behind the writers, or experts without a name, would be missed in silence."""
    last = [layer for layer in edited.layers if layer.startswith("layer")][-1]
    hidden = edited.features(prompts, last).float()
    share = float((hidden @ unit).norm() / hidden.norm())
    if not share <= REMAINS:
        raise Unsupported(f"{share:.0%} of {last} still lies along the direction: something unknown writes into the stream")


def ablated(victim: ChatVictim, unit: Tensor) -> ChatVictim:
    """A copy whose residual stream has nothing along `unit` (d,): no embedding and no block writes into that direction.

    Adapters are edited as what they are added to is, for B A writes along the columns of B. A head that shares its weight with
    the embedding no longer reads along `unit`.

    Raises:
        Unsupported: a decoder layer in which no such matrix is known; a module whose weight is laid out in an unknown way.
    """
    edited = copy.deepcopy(victim)
    for module in [*_embeddings(edited), *_writers(edited)]:
        _project_out(module, unit)
    return edited


def _embeddings(victim: ChatVictim) -> list[nn.Module]:
    """Those of tokens and of positions: every embedding that stands in no decoder layer."""
    inner = {id(module) for name in victim.blocks if name != "embedding" for module in victim.blocks[name].modules()}
    wrapped = {id(_bare(module)) for module in victim.modules() if _bare(module) is not module}
    outer = [module for module in victim.modules() if id(module) not in inner | wrapped]
    return [module for module in outer if isinstance(_bare(module), nn.Embedding)]


def _writers(victim: ChatVictim) -> list[nn.Module]:
    found = []
    for name, block in victim.blocks.items():
        if name.startswith("layer"):
            named = [module for path, module in block.named_modules() if path.rpartition(".")[2] in WRITERS]
            writers = [module for module in named if getattr(module, "weight", None) is not None]
            if not writers:
                raise Unsupported(f"no matrix of {name} is known to write into the residual stream")
            found.extend(writers)
    return found


def _bare(module: Any) -> Any:
    """The module that peft's layer wraps, or else the module itself."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def _project_out(module: nn.Module, unit: Tensor) -> None:
    bare = _bare(module)
    _clear(bare.weight, unit, _outward(bare))
    if getattr(bare, "bias", None) is not None:
        _clear(bare.bias, unit, 0)
    if bare is not module:
        for part in getattr(module, "lora_B", {}).values():
            _project_out(part, unit)
        for matrix in getattr(module, "lora_embedding_B", {}).values():
            _clear(matrix, unit, 0)


def _outward(module: nn.Module) -> int:
    """The dimension of a module's weight that counts its outputs."""
    if isinstance(module, nn.Linear):
        return 0
    if isinstance(module, nn.Embedding | transformers().pytorch_utils.Conv1D):  # GPT-2's Conv1D keeps its weight transposed
        return 1
    raise Unsupported(f"it is not known how the weight of a {type(module).__name__} is laid out")


def _clear(weight: Tensor, unit: Tensor, outward: int) -> None:
    """Take the part along `unit` out of a dimension in place, in float32 and rounded once."""
    whole, along = weight.data.float().movedim(outward, -1), unit.to(weight.device, torch.float32)
    if whole.shape[-1] != len(along):
        raise Unsupported(f"a matrix with {whole.shape[-1]} outputs does not write into a residual stream of {len(along)}")
    weight.data.copy_((whole - (whole @ along)[..., None] * along).movedim(-1, outward))
