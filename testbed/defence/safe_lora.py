"""SafeLoRA: a change of weights that leaves the directions of alignment is projected back onto them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from testbed.api import Defence, DefenderResources, Invalid, Unsupported, Victim
from testbed.defence.weight import Weight, reference_of, safety_vector, weights
from testbed.defence.wrapper import chat_model, chat_task


class Projected(NamedTuple):
    """A matrix of the tuned model, how its change lies to its own projection, and what replacing it would add."""

    weight: Weight
    cosine: float
    back: Tensor


@dataclass(frozen=True)
class SafeLora(Defence):
    """Replaces the change D of a matrix by C D where cos(C D, D) <= `threshold`.

    D = W - W_aligned (for an adapter B A), V = W_aligned - W_base, C = V V^T / ||V||_F, for each linear layer of the decoder.
    With `matrices` n, the n changes of lowest cosine are replaced instead, whatever the threshold. C is no projector:
    its eigenvalues are s^2 / ||V||_F, s the singular values of V, so that for small V little is left of C D, and to replace
    a change is nearly to take it back (on the toy 2 to 18 % of its norm stayed). A threshold below 0 replaces nothing, for
    C has no negative eigenvalue.

    Stage: after fine-tuning. Access: the weights of the tuned, the aligned and the base model.
    Source: Hsu et al. 2024, arXiv 2405.16833.
    """

    threshold: float
    matrices: int | None

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        reference_of(resources)
        if not -1 <= self.threshold <= 1:
            raise Invalid("threshold", self.threshold, "is a cosine, between -1 and 1")
        if self.matrices is not None and self.matrices < 0:
            raise Invalid("matrices", self.matrices, "must be at least 0", "null goes by the threshold")

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        repaired = copy.deepcopy(victim)
        for found in self._chosen(projections(repaired, reference_of(resources))):
            found.weight.add(found.back)
        return repaired

    def _chosen(self, found: list[Projected]) -> list[Projected]:
        if self.matrices is not None:
            return sorted(found, key=lambda each: each.cosine)[: self.matrices]
        return [each for each in found if each.cosine <= self.threshold]


@torch.no_grad()
def projections(victim: Victim, reference: tuple[Victim, Victim]) -> list[Projected]:
    """Every linear layer of the decoder that was tuned and aligned, with the projection of its change.

    Raises:
        Unsupported: the decoder has no linear layers.
    """
    base, aligned = map(weights, reference)
    places, found = linear_places(victim), []
    for name, weight in weights(victim).items():
        if id(weight.parameter) not in places:
            continue
        vector = safety_vector(base, aligned, name, weight.parameter)
        change = weight.value - aligned[name].value.to(vector.device)
        if vector.any() and change.any():  # otherwise there is nothing to project onto, or nothing to project
            onto = projected(vector, change)
            cosine = nn.functional.cosine_similarity(onto.flatten(), change.flatten(), dim=0)
            found.append(Projected(weight, float(cosine), onto - change))
    return found


def projected(vector: Tensor, change: Tensor) -> Tensor:
    """C D = V V^T D / ||V||_F, for V and D float (out, in)."""
    return vector @ (vector.T @ change) / vector.norm()


def linear_places(victim: Victim) -> set[int]:
    """The identities of the weights of linear layers between embedding and head."""
    layers = [block for name, block in chat_model(victim).blocks.items() if name not in ("embedding", "head")]
    linear = {id(module.weight) for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)}
    if not linear:
        raise Unsupported("needs a chat model whose decoder has linear layers")
    return linear
