"""Checkpoints of torch, read through its `weights_only` unpickler and only so: dense tensors and plain data come out."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from testbed.untrusted import archive, limits, program
from testbed.untrusted.header import checked_name
from testbed.untrusted.plain import printable
from testbed.untrusted.standin import standins
from testbed.untrusted.verdict import Unsafe, Wrong

LEGACY_PARTS = ("magic number", "protocol", "description of the machine", "pickle", "list of storages")


ADVICE = re.compile(
    r"^Weights only load failed.*?WeightsUnpickler error:|This is an internal miniz error.*|Check the documentation.*",
    re.DOTALL,
)
"""What torch adds to its errors: how to load the file all the same, which is not wanted here."""


class Part(NamedTuple):
    """A tensor to hand on: safetensors' name of its type, its shape, its bytes' number, and how to get them."""

    dtype: str
    shape: tuple[int, ...]
    length: int
    content: Callable[[], Any]


def inspect(file: IO[bytes], size: int, kind: str) -> int:
    """Check a checkpoint without torch and without running it; returns the bytes that its tensors can have.

    Raises:
        Unsafe, Wrong: it must not, or cannot, be read.
    """
    if kind == "archive":
        pickle, held = archive.checked(file, size)
        source = io.BytesIO(pickle)
        program.checked(source, "its data.pkl")
        if source.read(1):
            raise Unsafe("something stands behind the pickle in its data.pkl")
        return held
    file.seek(0)
    for part in LEGACY_PARTS:
        program.checked(file, f"its {part}")
        if file.tell() > limits.PROGRAM:
            raise Wrong(f"the pickles in it have more than {limits.PROGRAM} bytes")
    return size - file.tell()


def loaded(file: IO[bytes], size: int, held: int, kind: str) -> Any:
    """What an inspected checkpoint holds, with stand-ins for numpy's objects.

    Raises:
        Unsafe: torch's unpickler refuses it.
        Wrong: it is damaged.
    """
    import torch

    file.seek(0)
    try:
        with torch.serialization.safe_globals(standins()):
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except MemoryError:
        raise
    except Exception as error:
        said = printable(" ".join(ADVICE.sub("", str(error)).split()), 200)
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise MemoryError(said) from error
        raise Wrong(f"torch cannot read it ({type(error).__name__}: {said})") from error
    if kind == "legacy" and file.tell() != size:
        raise Unsafe("something stands behind the checkpoint's tensors: a file that is two things at once")
    return found


def part(name: Any, tensor: Any, held: int) -> Part:
    """A tensor as it is handed on.

    Raises:
        Unsafe, Wrong: it is not dense, or claims more than the file holds.
    """
    import torch

    shown = printable(checked_name(name), 80)
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided or tensor.is_quantized:
        raise Unsafe(f"{shown} is no dense tensor; only dense ones are read")
    if tensor.device.type != "cpu":
        raise Unsafe(f"{shown} lies on {printable(str(tensor.device), 20)}: a tensor without numbers")
    names = {getattr(torch, found): code for code, found in limits.TORCH.items()}
    if tensor.dtype not in names:
        raise Wrong(f"{shown} has numbers of type {tensor.dtype}; {', '.join(limits.BYTES)} are read")
    shape = tuple(tensor.shape)
    length = math.prod(shape) * limits.BYTES[names[tensor.dtype]]
    if len(shape) > limits.DIMENSIONS or length > tensor.untyped_storage().nbytes() or length > held:
        raise Unsafe(f"{shown} of shape {printable(str(list(shape)), 80)} claims more bytes than the file holds")
    plain = tensor.detach()
    return Part(names[tensor.dtype], shape, length, lambda: _bytes(plain))


def parts(state: Mapping[Any, Any], held: int) -> dict[str, Part]:
    """The tensors of a state dict; equal storages (tied weights) count each time they are named, up to four times the file.

    Raises:
        Unsafe, Wrong: something in it is no dense tensor of the file's own.
    """
    if not 0 < len(state) <= limits.TENSORS:
        raise Wrong(f"it holds {len(state)} tensors; from 1 to {limits.TENSORS} are read")
    found = {name: part(name, tensor, held) for name, tensor in state.items()}
    if sum(each.length for each in found.values()) > 4 * held:
        raise Unsafe("its tensors claim more than four times the bytes that the file holds")
    return found


def chunks(found: Mapping[str, Part]) -> Iterator[Any]:
    """The bytes of one tensor after another."""
    for each in found.values():
        yield each.content()


def _bytes(tensor: Any) -> Any:
    import torch

    return tensor.resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b""
