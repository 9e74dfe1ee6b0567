"""Low-rank adapters (LoRA) through peft: only they are trained, and only they are stored."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from testbed.api import Invalid

TRANSPOSED = "fan_in_fan_out is set to False but the target module is `Conv1D`"
"""What peft warns of where a GPT-2 keeps its matrices transposed, before it does the right thing."""


def with_adapters(network: Any, *, rank: int, alpha: float, dropout: float, target_modules: str | Sequence[str]) -> Any:
    """The network with W + alpha / rank B A in place of each matrix W that is named; A is random, B zero, both float32.

    `target_modules` are endings of modules' names, or 'all-linear': every linear layer but the head. Source: Hu et al. 2021,
    arXiv 2106.09685.

    Raises:
        Invalid: peft is not installed; a number is out of range; there is no module of such a name.
    """
    _check(rank, alpha, dropout)
    try:
        import peft
    except ModuleNotFoundError as error:
        raise Invalid("lora", True, "adapters need peft", "pip install 'testbed[lm]'", component="model") from error
    wanted = target_modules if isinstance(target_modules, str) else list(target_modules)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=wanted, bias="none")  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", re.escape(TRANSPOSED))
            found = peft.inject_adapter_in_model(config, network)
    except ValueError as error:
        said = " ".join(str(error).split())[:200]
        raise Invalid("target_modules", target_modules, said, "all-linear takes every one", component="model") from error
    for value in found.parameters():
        if value.requires_grad:  # bfloat16 is too coarse for small steps
            value.data = value.data.float()
    return found


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors by name."""
    return {name: value for name, value in network.state_dict().items() if ".lora_" in name}


def merged(network: nn.Module) -> nn.Module:
    """The network with its adapters added to its matrices, in place, as an ordinary one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: module for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}
    for name, layer in layers.items():
        layer.merge(safe_merge=True)
        home, _, own = name.rpartition(".")
        setattr(network.get_submodule(home), own, layer.get_base_layer())
    return network.requires_grad_()


def _check(rank: int, alpha: float, dropout: float) -> None:
    if rank < 1:
        raise Invalid("rank", rank, "must be at least 1", component="model")
    if not 0 < alpha < float("inf"):
        raise Invalid("alpha", alpha, "must be above 0", component="model")
    if not 0 <= dropout < 1:
        raise Invalid("dropout", dropout, "must be at least 0 and below 1", component="model")
