"""Reads a file that a stranger made: copied and hashed here, opened in a confined process, whose answer is checked here."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from testbed.error import Invalid
from testbed.untrusted import header, limits, peft
from testbed.untrusted.opened import KINDS, Opened
from testbed.untrusted.plain import Plain, printable
from testbed.untrusted.private import Source, check_local, copied, shown
from testbed.untrusted.process import Crashed, Order, Overdue, answer
from testbed.untrusted.verdict import Unsafe, Wrong
from testbed.words import Refused

if TYPE_CHECKING:
    import torch


def opened(path: Path, *, memory: int = limits.MEMORY, seconds: float = limits.SECONDS, declared: str | None = None) -> Opened:
    """The dense tensors and the plain data in a local file: safetensors, a checkpoint of torch, or a folder of peft's.

    The bytes decide what it is. A checkpoint goes through torch's `weights_only` unpickler and through nothing else. Reading
    happens in a process that may use `memory` bytes and `seconds` beside importing its libraries; `declared` is the kind that
    the caller expects.

    Raises:
        Invalid: it is not there, truncated, malformed, too large, of another kind than declared, or of one that is not read;
            a limit is no number in its range.
        Refused: with exit code 3: it would run code, is not what it seems, leads elsewhere, or crashed the process.
    """
    path = Path(path)
    if declared is not None and declared not in KINDS:
        raise Invalid("declared", declared, f"must be one of {', '.join(KINDS)}")
    order = _order(memory, seconds)
    check_local(path)
    try:
        is_folder = stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode)
    except (OSError, ValueError):
        is_folder = False  # said by `copied` with its reason
    found = _folder(path, order) if is_folder else _file(path, order)
    if declared not in (None, found.kind):
        raise Invalid("path", shown(path), f"is {found.kind}, not {declared}", f"say {found.kind}, or give another file")
    return found


def _order(memory: int, seconds: float) -> Order:
    """What the process may use, where that makes sense: a limit that cannot be set must not look like the file's fault."""
    for name, value, least, most, unit in (
        ("limits.memory", memory, limits.MIB, limits.MOST_MEMORY, "bytes"),
        ("limits.seconds", seconds, 0.01, limits.MOST_SECONDS, "seconds"),
    ):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:  # NaN is in no range
            raise Invalid(name, printable(str(value), 80), f"must be a number of {unit} from {least:,} to {most:,}")
    return Order(int(memory), float(seconds))


def _file(path: Path, order: Order) -> Opened:
    with copied(path) as copy:
        return _read(Source(path, path.suffix, copy, None, copy.sha256), order)


def _folder(path: Path, order: Order) -> Opened:
    try:
        place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Invalid("path", shown(path), reason, "give the path of a folder that you may read") from error
    try:
        names = sorted(os.listdir(place))
        weights = [name for name in peft.WEIGHTS if name in names]
        if len(names) > limits.FOLDER or peft.CONFIGURATION not in names or not weights:
            limit = f"is a folder without {peft.CONFIGURATION} and one of {', '.join(peft.WEIGHTS)}"
            raise Invalid("path", shown(path), limit, "give the file with the weights itself, or an adapter's folder")
        used = (peft.CONFIGURATION, weights[0])
        with (
            copied(path / used[0], limits.CONFIGURATION, place) as configuration,
            copied(path / used[1], folder=place) as copy,
        ):
            lines = "".join(f"{part.sha256}  {name}\n" for part, name in zip((configuration, copy), used, strict=True))
            digest = hashlib.sha256(lines.encode("utf-8")).hexdigest()
            found = _read(Source(path, Path(used[1]).suffix, copy, configuration, digest), order)
    finally:
        os.close(place)
    left_out = [printable(name, limits.NAME) for name in names if name not in used]
    if left_out:
        found.facts["left_out"] = left_out
    return found


def _read(source: Source, order: Order) -> Opened:
    """The confined process reads the copies, without torch if it can, because that takes seconds to import."""
    name = shown(source.path)
    with tempfile.TemporaryFile() as result:
        said: dict[str, Any] = {}
        for with_torch in (False, True):
            for each in (result, *(part.file for part in source.parts)):
                each.seek(0)
            result.truncate()
            try:
                said, sandbox = answer(order, source, result, with_torch=with_torch)
            except Overdue as overdue:
                advice = "give a smaller file, or more time (limits.seconds)"
                raise Invalid("path", name, f"{overdue} after {order.seconds:g} s", advice) from overdue
            except Crashed as crashed:
                raise Refused(f"{name}: {crashed}; a file that does this is not read", 3) from crashed
            if "inspected" not in said:
                break
        try:
            return _checked(said, result, source.sha256, sandbox)
        except Unsafe as unsafe:
            raise Refused(f"{name}: {unsafe.why}", 3) from unsafe
        except Wrong as wrong:
            raise Invalid("path", name, wrong.limit, wrong.advice) from wrong


def _checked(said: dict[str, Any], result: IO[bytes], sha256: str, sandbox: str) -> Opened:
    """What came back, believed no more than the file itself was."""
    if isinstance(said.get("unsafe"), str):
        raise Unsafe(printable(said["unsafe"], 600))
    if isinstance(said.get("wrong"), str):
        raise Wrong(printable(said["wrong"], 600), printable(str(said.get("advice", "")), 300))
    kind, facts = said.get("kind"), said.get("facts")
    if kind not in KINDS or not isinstance(facts, dict):
        raise Unsafe("the process that read it answered what it should not")
    return Opened(_tensors(result), Plain()(facts), kind, sha256, sandbox)


def _tensors(result: IO[bytes]) -> dict[str, torch.Tensor]:
    import torch

    size = result.seek(0, os.SEEK_END)
    found = header.read(result, size)
    result.seek(found.start)
    tensors = {}
    for name, entry in found.entries.items():
        tensor = torch.empty(entry.shape, dtype=getattr(torch, limits.TORCH[entry.dtype]))
        if tensor.numel():
            view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            if result.readinto(view) != len(view):  # type: ignore[attr-defined]
                raise Wrong("what the process that read it handed back is shorter than it says")
        tensors[name] = tensor
    return tensors
