"""The training loss of a victim as it would be if some of its tensors had other values."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call

from testbed.api import Batch, Victim


def loss_at(victim: Victim, batch: Batch, values: Mapping[str, Tensor]) -> Tensor:
    """`victim.loss(batch)` with these values in place of parameters or buffers, by their names; differentiable in the values.

    The victim keeps its own tensors. A buffer that is written to in the pass, as running statistics are, is written to in the
    value given for it.
    """
    return functional_call(_Loss(victim), {f"victim.{name}": value for name, value in values.items()}, (batch,))


class _Loss(nn.Module):
    """A victim whose forward pass is its loss, for `functional_call` substitutes in forward passes alone."""

    def __init__(self, victim: Victim) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, batch: Batch) -> Tensor:
        return self.victim.loss(batch)
