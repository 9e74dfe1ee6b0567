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
from testbed.library import transformers


class Matrix(NamedTuple):
    """The weight of a linear layer; `transposed` where it is kept as (in, out), as GPT-2's Conv1D does."""

    weight: Weight
    transposed: bool

    def upright(self, value: Tensor) -> Tensor:
        """What is laid out as the weight is, as (out, in); and back."""
        return value.T if self.transposed else value


class Projected(NamedTuple):
    """A matrix of the tuned model, the same weight of aligned and base model, and how its change lies to its projection."""

    matrix: Matrix
    aligned: Weight
    vector: Tensor
    cosine: float

    @torch.no_grad()
    def replace(self) -> None:
        """Put C D in the place of D: B <- C B where D is an adapter's, or else by adding C D - D to the parameter."""
        tuned = self.matrix.weight
        if self._is_an_adapter():
            for name in tuned.acting:
                adapter = tuned.adapted.lora_B[name].weight
                adapter.copy_(projected(self.vector, adapter.float()))
        else:
            change = self.matrix.upright(tuned.since(self.aligned))
            tuned.add(self.matrix.upright(projected(self.vector, change) - change))

    def _is_an_adapter(self) -> bool:
        tuned, aligned = self.matrix.weight, self.aligned
        same = torch.equal(tuned.parameter.float(), aligned.parameter.float().to(tuned.parameter.device))
        return bool(tuned.acting) and same and not aligned.adapters.any()


@dataclass(frozen=True)
class SafeLora(Defence):
    """Replaces the change D of a matrix by C D where cos(C D, D) <= `threshold`.

    D = W - W_aligned (for an adapter B A), V = W_aligned - W_base, C = V V^T / ||V||_F, for each linear layer of the decoder.
    Where D is an adapter's alone, B becomes C B, in float32. Otherwise (all weights were tuned, or the aligned model has
    adapters of its own) the parameter changes, and if that is bfloat16 then a change below 1/512 of a weight is lost.
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
        found = matrices(resources.fresh()).values()
        if not any(each.weight.parameter.requires_grad or each.weight.acting for each in found):
            raise Unsupported("needs a chat model whose decoder has linear layers that are tuned")

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        repaired = copy.deepcopy(victim)
        for found in self._chosen(projections(repaired, reference_of(resources))):
            found.replace()
        return repaired

    def _chosen(self, found: list[Projected]) -> list[Projected]:
        if self.matrices is not None:
            return sorted(found, key=lambda each: each.cosine)[: self.matrices]
        return [each for each in found if each.cosine <= self.threshold]


@torch.no_grad()
def projections(victim: Victim, reference: tuple[Victim, Victim]) -> list[Projected]:
    """Every linear layer of the decoder that was tuned and aligned.

    Raises:
        Unsupported: base and aligned model are not of one shape.
    """
    (base, aligned), found = map(weights, reference), []
    for name, matrix in matrices(victim).items():
        vector = matrix.upright(safety_vector(base, aligned, name, matrix.weight.parameter))
        change = matrix.upright(matrix.weight.since(aligned[name]))
        if vector.any() and change.any():  # otherwise there is nothing to project onto, or nothing to project
            cosine = nn.functional.cosine_similarity(projected(vector, change).flatten(), change.flatten(), dim=0)
            found.append(Projected(matrix, aligned[name], vector, float(cosine)))
    return found


def projected(vector: Tensor, change: Tensor) -> Tensor:
    """C D = V V^T D / ||V||_F, for V float (out, in) and D float (out, any)."""
    return vector @ (vector.T @ change) / vector.norm()


def matrices(victim: Victim) -> dict[str, Matrix]:
    """By name, the weights of the linear layers between embedding and head; those inside of adapters do not count."""
    known = {id(weight.parameter): (name, weight) for name, weight in weights(victim).items()}
    layers = [block for name, block in chat_model(victim).blocks.items() if name not in ("embedding", "head")]
    found, conv1d = {}, transformers().pytorch_utils.Conv1D
    for module in (module for layer in layers for module in layer.modules()):
        if isinstance(module, nn.Linear | conv1d) and id(module.weight) in known:
            name, weight = known[id(module.weight)]
            found[name] = Matrix(weight, isinstance(module, conv1d))
    return found
