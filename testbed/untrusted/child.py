"""The reading process: gives up what it does not need, reads one stranger's file, hands back tensors and plain data, ends.

Started by `testbed.untrusted.reader` in isolated mode. Its standard input is the order, its standard output what it says;
the file, what is beside it, and the place for the tensors are open already: it opens none itself.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NoReturn

from testbed.untrusted import checkpoint, content, header, limits, peft, sandbox, state_dict
from testbed.untrusted.plain import Plain, printable
from testbed.untrusted.verdict import Unsafe, Wrong

SYSTEM = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/proc/cpuinfo",
    "/sys/devices/system/cpu",
)
"""What Python and torch read of a system while they run."""
MORE = "give a smaller file, or more memory (limits.memory, in bytes)"
"""What to do where memory does not suffice."""


def main() -> NoReturn:
    """Obey the order on the standard input: with a process of its own inside, where processes can be kept apart."""
    order = json.loads(sys.stdin.buffer.readline())
    sandbox.tied()
    network = sandbox.alone()
    if network.yes:
        _go_inside()
    if order["torch"]:
        _warm_up()
    words = sandbox.confine(_readable(), network, order["memory"], order["seconds"], order["result"])
    _say({"sandbox": words})
    _say(_answer(order))
    sys.stdout.flush()
    os._exit(0)


def _go_inside() -> None:
    """Go on as the first process of a tree of its own; this one says its number, waits for it, and ends as it does."""
    heard, said = os.pipe()
    inside = os.fork()
    if inside:
        _say({"inside": inside})
        os.write(said, b"!")
        _, status = os.waitpid(inside, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.read(heard, 1)
    os.close(heard)
    os.close(said)
    sandbox.tied()


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    try:
        return read(order)
    except Wrong as wrong:
        return {"wrong": printable(wrong.limit, 600), "advice": printable(wrong.advice, 300)}
    except Unsafe as unsafe:
        return {"unsafe": printable(unsafe.why, 600)}
    except MemoryError:
        return {"wrong": f"reading it takes more than {order['memory'] / limits.GIB:.3g} GiB", "advice": MORE}
    except Exception as error:  # of any class: whatever else goes wrong is the file's doing, and the file is not read
        return {
            "wrong": f"it cannot be read ({type(error).__name__}: {printable(' '.join(str(error).split()), 200)})",
            "advice": "",
        }


def read(order: dict[str, Any]) -> dict[str, Any]:
    """Read what lies open: the tensors go into the result, the rest is returned. Without torch, a checkpoint is only inspected.

    Raises:
        Unsafe, Wrong: it must not, or cannot, be read.
    """
    file, size, suffix = os.fdopen(order["file"], "rb"), order["size"], order["suffix"]
    beside = os.fdopen(order["configuration"], "rb").read() if order["configuration"] is not None else None
    adapter = peft.configuration(beside) if beside is not None else None
    kind = content.told(file, size, suffix)
    if kind == "safetensors":
        found = header.read(file, size)
        with os.fdopen(order["tensors"], "wb") as result:
            tensors = {name: (entry.dtype, entry.shape, entry.end - entry.begin) for name, entry in found.entries.items()}
            header.write(result, tensors, _copied(file, found))
        return _facts("safetensors", adapter, Plain()(found.metadata))
    held = checkpoint.inspect(file, size, kind)
    if not order["torch"]:
        return {"inspected": kind}
    state, facts, name = state_dict.found(checkpoint.loaded(file, size, held, kind))
    parts = checkpoint.parts(state, held)
    with os.fdopen(order["tensors"], "wb") as result:
        header.write(result, {name: part[:3] for name, part in parts.items()}, checkpoint.chunks(parts))
    return _facts(name, adapter, facts)


def _facts(kind: str, adapter: dict[str, Any] | None, facts: dict[str, Any]) -> dict[str, Any]:
    if adapter is None:
        return {"kind": kind, "facts": facts}
    return {"kind": "peft", "facts": {**adapter, **({"metadata": facts} if facts else {})}}


def _copied(file: IO[bytes], found: header.Header) -> Iterable[bytes]:
    file.seek(found.start)
    while chunk := file.read(limits.MIB):
        yield chunk


def _warm_up() -> None:
    """Import torch, and load a tensor of our own, so that nothing is imported once a stranger's bytes are at work."""
    import io

    import torch

    torch.set_num_threads(1)
    for modern in (True, False):
        place = io.BytesIO()
        torch.save({"w": torch.zeros(2)}, place, _use_new_zipfile_serialization=modern)
        place.seek(0)
        torch.load(place, weights_only=True)


def _readable() -> list[Path]:
    """Folders of Python's own library, of packages and of this one; none of the user's."""
    own = Path(__file__).resolve().parent.parent
    known = [
        Path(entry).resolve() for entry in sys.path if entry and Path(entry).name.startswith(("site-packages", "dist-packages"))
    ]
    standard = Path(os.__file__).resolve().parent
    return [own, standard, *known, *map(Path, SYSTEM)]


def _say(words: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()
