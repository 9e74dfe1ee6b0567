"""The weights of victims by name, low-rank adapters counted in: what defences that calculate with whole models share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from testbed.api import DefenderResources, Unsupported, Victim


class Weight(NamedTuple):
    """A parameter, and the layer of adapters on top of it if there is one (in the way peft's linear layers are)."""

    parameter: nn.Parameter
    adapted: Any = None

    @property
    def value(self) -> Tensor:
        """What the model calculates with, float32: the parameter and every active adapter that is not merged into it."""
        return self.parameter.detach().float() + self.adapters

    @property
    def adapters(self) -> Tensor:
        """float32: what the adapters in `acting` add, 0 where there are none."""
        added = torch.zeros_like(self.parameter, dtype=torch.float32)
        for name in self.acting:
            added += self.adapted.get_delta_weight(name).detach().float().to(added.device)
        return added

    @property
    def acting(self) -> list[str]:
        """The names of the adapters that are active and not merged into the parameter."""
        active = [] if self.adapted is None else self.adapted.active_adapters
        return [name for name in active if name in self.adapted.scaling and name not in self.adapted.merged_adapters]

    def since(self, start: Weight) -> Tensor:
        """float32: this value less that of `start`, on this device.

        Parameters and adapters are subtracted apart, so that a small adapter is not rounded by a large parameter.
        """
        device = self.parameter.device
        moved = self.parameter.detach().float() - start.parameter.detach().float().to(device)
        return moved + (self.adapters - start.adapters.to(device))

    @torch.no_grad()
    def add(self, change: Tensor) -> None:
        """Add to the parameter in place, rounded to its type; whatever the adapters add stays."""
        self.parameter.add_(change.to(self.parameter.device, self.parameter.dtype))


def weights(victim: Victim) -> dict[str, Weight]:
    """Every parameter of the model proper, by the name that it has without adapters."""
    layers: list[Any] = [module for module in victim.modules() if hasattr(module, "get_delta_weight")]
    adapted = {id(layer.base_layer.weight): layer for layer in layers}
    named = victim.named_parameters()
    return {_plain(name): Weight(value, adapted.get(id(value))) for name, value in named if ".lora_" not in name}


def _plain(name: str) -> str:
    return name.replace("base_model.model.", "").replace(".base_layer.", ".")


def safety_vector(base: Mapping[str, Weight], aligned: Mapping[str, Weight], name: str, like: Tensor) -> Tensor:
    """float32: what alignment changed in this weight, on the device of `like`.

    Raises:
        Unsupported: base and aligned model are not of one shape here.
    """
    if name not in base or name not in aligned or not base[name].parameter.shape == aligned[name].parameter.shape == like.shape:
        raise Unsupported(f"needs base and aligned models of one shape, and {name} differs")
    return aligned[name].since(base[name]).to(like.device)


def reference_of(resources: DefenderResources) -> tuple[Victim, Victim]:
    """The base model and the aligned one; raises `Unsupported` where there is no base."""
    if resources.reference is None:
        raise Unsupported("needs the base model: model.base=")
    return resources.reference
