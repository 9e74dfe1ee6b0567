"""What the machine ran out of, told from other faults: memory, by what libraries raise, and room on a disk, by the number."""

from __future__ import annotations

import errno
import resource
import sys
from collections.abc import Iterator, Mapping
from typing import Any

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
"""Errors of a disk that is full, read-only or failing."""

SAID = ("can't allocate memory", "out of memory", "alloc_failed", "not enough memory", "unable to allocate")
"""What PyTorch (for the CPU, CUDA and cuBLAS) says in a RuntimeError, in lower case."""
GIGA = 1e9
LONGEST = 200


def out_of_memory(error: BaseException) -> bool:
    """Whether this error, or one behind it, says that memory ran out: of the machine, of a limit on this process, of a GPU."""
    return any(map(_says_so, _chain(error)))


def told(error: BaseException, config: Mapping[str, Any]) -> str:
    """One line: who asked for how much, the batch size, the peak so far, and what to do about it."""
    size = (config.get("trainer") or {}).get("batch_size")
    batch = "" if size is None else f"trainer.batch_size={size}, "
    on_gpu = gpu()
    peak = f"{peak_memory() / GIGA:.1f} GB used at most"
    peak += "" if on_gpu is None else f", {on_gpu.max_memory_allocated() / GIGA:.1f} GB on the GPU"
    smaller = "a smaller trainer.batch_size or model, or fewer runs at a time (jobs=), takes less"
    return f"out of memory ({batch}{peak}): {_short(error)}; {smaller}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in SAID)


def _short(error: BaseException) -> str:
    """Its own words, in one line and without the trace that PyTorch adds to them."""
    said = " ".join(str(error).split("\nException raised from", 1)[0].split()) or type(error).__name__
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."


def peak_memory() -> int:
    """Bytes of memory that this process has held at most; macOS counts bytes, Linux thousands of them."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gpu() -> Any:
    """PyTorch's module for the GPU, where PyTorch is used and there is one."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None
