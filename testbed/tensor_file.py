"""Safetensors files that are the same, byte for byte, whenever what is in them is: their digests can then stand for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Tensors with what is said of them."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, dict(metadata))
    put_in_order(path)


def save_network(path: Path, network: nn.Module, metadata: Mapping[str, str]) -> None:
    """The parameters and buffers of a network, each that is shared once, with what is said of them."""
    from safetensors.torch import save_model

    save_model(network, str(path), dict(metadata))
    put_in_order(path)


def put_in_order(path: Path) -> None:
    """Sort the metadata of a file in place: the library writes them in an order that changes from one process to the next."""
    with path.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        if "__metadata__" not in header:
            return
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8").ljust(size)
        if len(ordered) != size:
            raise ValueError(f"{path}: its header would be longer in order: {len(ordered)} bytes for {size}")
        stream.seek(8)
        stream.write(ordered)
