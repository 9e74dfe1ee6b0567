"""The state dict in a checkpoint: by itself, under the name that a framework gives it, or in BackdoorBench's result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.untrusted.plain import Plain, printable
from testbed.untrusted.verdict import Wrong

BACKDOORBENCH = ("model_name", "num_classes", "model", "clean_data")
"""What BackdoorBench's attack_result.pt has beside the data of its attack (Wu et al. 2022, arXiv 2206.12654)."""
DATA = (
    "bd_train",
    "bd_test",
    "clean_train",
    "clean_test",
    "optimizer",
    "optimizer_states",
    "lr_schedulers",
    "callbacks",
    "loops",
)
"""What is left out whole: rows, and the state of training."""
HOMES = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module")
"""Where frameworks keep the state dict in a checkpoint."""
PREFIX = "module."
"""What DataParallel puts before every name."""


def found(content: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The tensors by name, the plain data beside them, and the kind: 'backdoorbench' or 'state_dict'.

    Raises:
        Wrong: there is no state dict in it.
    """
    if not isinstance(content, Mapping):
        raise Wrong(f"it holds a {type(content).__name__}, no state dict", "save model.state_dict()")
    kind = "backdoorbench" if all(name in content for name in BACKDOORBENCH) else "state_dict"
    home = "model" if kind == "backdoorbench" else _home(content)
    state = content[home] if home else content
    if not _is_state(state):
        raise Wrong(
            "it holds no state dict, or not one alone", f"save model.state_dict(), or that under one of {', '.join(HOMES)}"
        )
    facts, left_out = _facts(content, home) if home else ({}, [])
    names = [name for name in state if isinstance(name, str)]
    if names and len(names) == len(state) and all(name.startswith(PREFIX) for name in names):
        state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
        facts["prefix"] = PREFIX
    if left_out:
        facts["left_out"] = left_out
    return dict(state), facts, kind


def _home(content: Mapping[Any, Any]) -> str:
    """Under which of a checkpoint's names the state dict stands; '' where the checkpoint is one."""
    return "" if _is_state(content) else next((name for name in HOMES if _is_state(content.get(name))), "")


def _facts(content: Mapping[Any, Any], home: str) -> tuple[dict[str, Any], list[str]]:
    facts, left_out, plain = {}, [], Plain()
    for name, value in content.items():
        if name == home:
            continue
        shown = printable(str(name), 80)
        if name in DATA or _has_tensors(value):
            left_out.append(shown)
        else:
            facts[shown] = plain(value)
    return facts, left_out


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > 0 and all(_is_tensor(item) for item in value.values())


def _has_tensors(value: Any) -> bool:
    return _is_tensor(value) or (isinstance(value, Mapping) and any(_is_tensor(item) for item in value.values()))


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
