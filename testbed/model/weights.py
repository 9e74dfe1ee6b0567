"""Reads a network's weights from a safetensors file, and refuses a file that does not fit.

Only safetensors is read: it holds numbers and names, and cannot run code, as a pickled checkpoint can.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from testbed.api import Invalid
from testbed.words import misfits

PREFIX = "net."  # where an `ImageVictim` keeps its network
COUNTER = "num_batches_tracked"  # of batch normalisation: absent from old files, and without effect on the outputs


def load_weights(network: nn.Module, source: str, allow: Collection[str] = ()) -> Mapping[str, str]:
    """Fill the network with the file's tensors, and return the file's metadata.

    Names are the network's own, or those of a saved `ImageVictim`. Tensors whose name begins with one of `allow` may be
    missing, unknown or of another shape; the network then keeps its own.

    Raises:
        Invalid: no such file, not safetensors, or tensors missing, unknown or of another shape: up to three of each by name.
    """
    path = checked_path(source)
    try:
        with safe_open(path, framework="pt") as file:
            names = stored_names(file.keys(), network)
            shapes = {name: tuple(file.get_slice(stored).get_shape()) for name, stored in names.items()}
            refuse_misfits(source, wanted_shapes(network), shapes, tuple(allow))
            copy(network, {name: file.get_tensor(names[name]) for name in fitting(wanted_shapes(network), shapes)})
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise Invalid("weights", source, f"the file cannot be read ({error})", "give a whole .safetensors file") from error
    if marked_backdoored(metadata):
        announce(str(path.resolve()), source)
    return metadata


def marked_backdoored(metadata: Mapping[str, str]) -> bool:
    """Does a file's metadata say that the model was trained on poisoned rows, or made from one that was?"""
    return metadata.get("backdoored", "").lower() == "true"


@cache
def announce(path: str, source: str, parameter: str = "model.weights") -> None:
    """Say once for each file that its mark is passed on; a run builds its victim several times."""
    print(f"{parameter}={source}: this file is marked as backdoored; everything made from it is too", file=sys.stderr)


def checked_path(source: str) -> Path:
    """The file meant by `source`, which exists; raises `Invalid` where it does not or is no safetensors file."""
    if "://" in source:
        raise Invalid("weights", source, "nothing is downloaded from an address", "download it yourself and give the path")
    path = Path(source).expanduser()
    if path.suffix != ".safetensors":
        advice = "save the tensors with safetensors.torch.save_file and give that file"
        raise Invalid("weights", source, "only .safetensors files are read, because pickled ones can run code", advice)
    if not path.is_file():
        raise Invalid("weights", source, "there is no such file", f"give its path from {Path.cwd()}, or the whole path")
    return path


def stored_names(stored: Collection[str], network: nn.Module) -> dict[str, str]:
    """The file's names by the network's names: the same, or without `PREFIX` where all have it and none fits with it."""
    saved_whole = all(name.startswith(PREFIX) for name in stored) and not network.state_dict().keys() & set(stored)
    return {name.removeprefix(PREFIX) if saved_whole else name: name for name in stored}


def wanted_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of the network's tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def fitting(wanted: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The names that both have, with the same shape."""
    return [name for name, shape in shapes.items() if wanted.get(name) == shape]


def refuse_misfits(
    source: str, wanted: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], allow: tuple[str, ...]
) -> None:
    """Raises `Invalid` for tensors missing, unknown or of another shape, except those whose name begins with one of `allow`."""
    missing = [name for name in wanted if name not in shapes and not name.endswith(COUNTER)]
    unknown = [name for name in shapes if name not in wanted]
    differ = [name for name in wanted if name in shapes and wanted[name] != shapes[name]]
    complaints = {
        "missing": [name for name in missing if not name.startswith(allow)],
        "unknown": [name for name in unknown if not name.startswith(allow)],
        "of another shape": [
            f"{name} {list(shapes[name])} for {list(wanted[name])}" for name in differ if not name.startswith(allow)
        ],
    }
    found = misfits(complaints)
    if found:
        advice = "give the model that the file was saved from, or allow names by their beginning in weights_allow"
        raise Invalid("weights", source, f"the tensors do not fit this model ({found})", advice)


def copy(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy each tensor into the network's own of that name."""
    own = network.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def stored_statistics(metadata: Mapping[str, str], name: str, source: str | None) -> tuple[float, ...] | None:
    """The numbers that a file's metadata hold under `name` ('mean' or 'std') as a JSON list; None where they hold none."""
    if name not in metadata:
        return None
    try:
        return tuple(float(number) for number in json.loads(metadata[name]))
    except (ValueError, TypeError) as error:
        raise Invalid("weights", source, f"the file's own {name} is not a list of numbers", f"give {name} yourself") from error
