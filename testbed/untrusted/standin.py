"""What takes the place of numpy's and PIL's objects in a checkpoint: it keeps what the file says and does nothing."""

from __future__ import annotations

import struct
from typing import Any

NUMBERS = {
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f2": "e", "f4": "f", "f8": "d"},
    "b1": "?",
}
"""numpy's codes of scalar types, and those of `struct`."""


class Type:
    """In place of numpy.dtype: its code, whatever else the file says of it."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = code if isinstance(code, str) else ""

    def __setstate__(self, state: Any) -> None:
        """Byte order, fields and the like: not needed."""

    def plain(self) -> Any:
        return self.code


class Array:
    """In place of numpy.ndarray: its shape and type, not its elements."""

    def __init__(self, *_: Any) -> None:
        self.shape: Any = None
        self.type: Any = None

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 5:
            self.shape, self.type = state[1], state[2]

    def plain(self) -> Any:
        return {"array": self.type, "shape": self.shape}


class Scalar:
    """In place of a scalar of numpy's: the number where it is one."""

    def __init__(self, dtype: Any = None, content: Any = b"", *_: Any) -> None:
        self.value = None
        code = NUMBERS.get(getattr(dtype, "code", ""))
        if code and isinstance(content, bytes) and len(content) == struct.calcsize(f"<{code}"):
            (self.value,) = struct.unpack(f"<{code}", content)

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scalar) and other.value == self.value

    def plain(self) -> Any:
        return self.value


class Inert:
    """In place of anything else that may lie beside weights: nothing of it is kept."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        """Nothing of it is kept."""

    def plain(self) -> Any:
        return "<left out>"


def standins() -> list[Any]:
    """Pairs of what is called and the name that a file calls it by, as `torch.serialization.safe_globals` takes them."""
    cores = ("numpy.core.multiarray", "numpy._core.multiarray")
    return [
        *((Array, f"{core}._reconstruct") for core in cores),
        *((Scalar, f"{core}.scalar") for core in cores),
        *((Array, "numpy.ndarray"), (Type, "numpy.dtype"), (Inert, "PIL.Image.Image"), (Inert, "argparse.Namespace")),
        *((Inert, "pathlib.PosixPath"), (Inert, "pathlib.WindowsPath")),
    ]
