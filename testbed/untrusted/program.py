"""A pickle is a program: here it is read without being run, and only what dense tensors and plain data need is allowed.

This comes before torch's own restricted unpickler, not instead of it: an allowlist of instructions and names that is shorter
than torch's (nothing sparse, quantised, or of a subclass), and that can say what a refused file wanted.
"""

from __future__ import annotations

import pickletools
from typing import IO

from testbed.untrusted.plain import printable
from testbed.untrusted.verdict import Unsafe, Wrong

INSTRUCTIONS = frozenset(
    {
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
        *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWFALSE", "NEWTRUE", "EMPTY_TUPLE", "EMPTY_LIST"),
        *("EMPTY_DICT", "EMPTY_SET", "BINPERSID", "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE"),
        *("SHORT_BINSTRING", "LONG1", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT"),
    }
)
"""What torch writes by default (protocol 2)."""

_KINDS = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
_DTYPES = (
    *("float32", "float16", "bfloat16", "float64", "bool"),
    *("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"),
)
TENSORS = frozenset(
    {
        *(f"torch.{kind}Storage" for kind in _KINDS),
        *(f"torch.cuda.{kind}Storage" for kind in _KINDS),
        *(f"torch.{dtype}" for dtype in _DTYPES),
        *(f"torch._utils._rebuild_{what}" for what in ("tensor", "tensor_v2", "tensor_v3", "parameter")),
        *("torch.Size", "torch.device", "torch.storage.UntypedStorage", "collections.OrderedDict", "collections.Counter"),
        *("builtins.set", "__builtin__.set", "_codecs.encode"),
    }
)
"""Names that rebuild dense tensors and plain containers."""
INERT = frozenset(
    {
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *("numpy.ndarray", "numpy.dtype", "PIL.Image.Image", "pathlib.PosixPath", "pathlib.WindowsPath", "argparse.Namespace"),
    }
)
"""Names that stand in BackdoorBench's and others' files beside the weights; stand-ins of ours are called in their place."""
LIKE_WEIGHTS = ("torch.", "torchvision.", "transformers.", "timm.", "__main__.", "models.", "lightning.", "pytorch_lightning.")


def checked(file: IO[bytes], what: str = "its pickle") -> None:
    """Read one pickle from where the file stands to its end.

    Raises:
        Unsafe: an instruction or a name that is not allowed.
        Wrong: it is truncated or malformed.
    """
    try:
        for instruction, argument, _ in pickletools.genops(file):
            if instruction.name not in INSTRUCTIONS:
                raise Unsafe(
                    f"{what} holds the instruction {instruction.name}, which weights do not need; "
                    "save them again with torch.save as it is, or as safetensors"
                )
            if instruction.name == "GLOBAL":
                _check_name(str(argument).replace(" ", ".", 1))
            if instruction.name == "PROTO" and argument != 2:
                raise Unsafe(f"{what} is of protocol {argument}; only torch's own, 2, is read")
    except (ValueError, IndexError, OverflowError, EOFError) as error:
        raise Wrong(f"{what} is damaged ({printable(str(error), 120)})") from error


def _check_name(name: str) -> None:
    if name in TENSORS or name in INERT:
        return
    shown = printable(name, 100)
    if (
        "sparse" in name
        or "_rebuild_qtensor" in name
        or name.startswith("torch.Q")
        or "wrapper_subclass" in name
        or "meta_tensor" in name
    ):
        raise Unsafe(f"it needs {shown}: only dense, ordinary tensors are read")
    if name.startswith(LIKE_WEIGHTS):
        raise Unsafe(f"it needs {shown}, which would run code: a whole object, not its weights; save its state_dict() instead")
    raise Unsafe(f"it names {shown}, which weights do not need and which could run code")
