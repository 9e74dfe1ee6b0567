"""Vaccine: alignment under the shift of hidden states that would hurt it most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from testbed.api import Batch, Defence, DefenderResources, Invalid, Victim
from testbed.defence.wrapper import Wrapped, chat_model, chat_task
from testbed.language import ChatVictim


@dataclass(frozen=True)
class Vaccine(Defence):
    """Aligns with each decoder layer's output h_l shifted by what raises the loss most within a ball of radius `rho`.

    eps_l = rho g_l / ||g||, g_l = dL/dh_l of a first pass, ||g|| the norm over all layers and rows of the batch together. The
    gradient of the weights is that of a second pass at h_l + eps_l, with eps_l constant.

    Stage: alignment. Access: gradients, hooks on the layers, twice the passes. One `rho` is shared by all layers, rows and
    tokens of a batch: what it means for a token depends on how many there are, and on the size of hidden states.
    Source: Huang et al. 2024, arXiv 2402.01109.
    """

    rho: float

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        if not self.rho >= 0:
            raise Invalid("rho", self.rho, "must be at least 0", "0 aligns as ever")

    def during_alignment(self, victim: Victim, resources: DefenderResources) -> Victim:
        return Perturbed(chat_model(victim), self.rho)


class Perturbed(Wrapped):
    """Its loss while training is that of the second pass."""

    def __init__(self, victim: ChatVictim, rho: float) -> None:
        super().__init__(victim)
        self.rho = rho

    def loss(self, batch: Batch) -> Tensor:
        if not (self.rho and self.training and torch.is_grad_enabled()):
            return self.victim.loss(batch)
        shifts: dict[str, Tensor] = {}
        with shifted(self._layers(), shifts):
            first = self.victim.loss(batch)
        gradients = dict(zip(shifts, torch.autograd.grad(first, list(shifts.values())), strict=True))
        norm = torch.stack([gradient.float().norm() for gradient in gradients.values()]).norm()
        scale = self.rho / norm.clamp(min=torch.finfo(norm.dtype).tiny)  # where nothing depends on anything, nothing is shifted
        with shifted(self._layers(), {name: scale.to(gradient.dtype) * gradient for name, gradient in gradients.items()}):
            return self.victim.loss(batch)

    def _layers(self) -> Mapping[str, nn.Module]:
        return {name: block for name, block in self.blocks.items() if name not in ("embedding", "head")}


@contextmanager
def shifted(modules: Mapping[str, nn.Module], shifts: dict[str, Tensor]) -> Iterator[None]:
    """Inside, each module's output has its shift added; one that is not in `shifts` gets a zero there, to differentiate by."""

    def hook(name: str) -> Any:
        def add(module: nn.Module, given: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            if name not in shifts:
                shifts[name] = torch.zeros_like(hidden).requires_grad_()
            moved = hidden + shifts[name]
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return add

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
