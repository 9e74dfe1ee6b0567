"""A disk that fails at one chosen moment: the n-th call that writes, makes, renames or brings something to the disk raises.

Calls of Python are caught (`os`, `open` and what `open` returns) and the one that `testbed.files` makes by itself (renameat2),
inside this process and nowhere else. What a library writes from compiled code is not; `full` has a real file system for that.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from testbed import files

NAMED = ("open", "mkdir", "rename", "replace", "link", "unlink", "rmdir")
"""Calls of `os` that the kernel answers with a name; what fails on an open file (`fsync`, write, close) has none."""
EXCHANGE = "renameat2"
"""The call by which two folders change places; `os` has none, so that `testbed.files` makes it itself."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class Disk:
    """Counts the calls that change something, and lets the one of this number fail, and those after it that are `lasting`.

    `fail` is called with the name of the call and what it was given, and raises or ends the process.
    """

    number: int
    fail: Callable[[str, tuple[Any, ...]], None]
    lasting: Sequence[str] = ()
    calls: list[str] = field(default_factory=list)

    def call(self, name: str, *given: Any) -> None:
        """One call is about to be made."""
        self.calls.append(name)
        if len(self.calls) == self.number or (name in self.lasting and len(self.calls) > self.number > 0):
            self.fail(name, given)

    def wrapped(self, name: str) -> Callable[..., Any]:
        """A function of `os` that is counted."""
        true = getattr(os, name)

        def called(*given: Any, **more: Any) -> Any:
            if name != "open" or given[1] & WRITING:
                self.call(name, *given)
            return true(*given, **more)

        return called

    def exchanged(self, one: Path, other: Path) -> bool:
        """Two folders change places, counted; an error names the second, as `testbed.files` does."""
        self.call(EXCHANGE, other)
        return TRUE_EXCHANGE(one, other)

    def opened(self, file: Any, mode: str = "r", *given: Any, **more: Any) -> Any:
        """`open`, counted where it writes, and what is then written."""
        if not set(mode) & set("wax+"):
            return TRUE_OPEN(file, mode, *given, **more)
        if not isinstance(file, int):
            self.call("open", file)
        return Stream(TRUE_OPEN(file, mode, *given, **more), self)


TRUE_OPEN = io.open
TRUE_EXCHANGE = files._exchanged


class Stream:
    """An open file whose writing may fail; half of what was to be written is in it then, as on a disk that is full."""

    def __init__(self, true: Any, disk: Disk) -> None:
        self._true, self._disk = true, disk

    def write(self, content: Any) -> int:
        try:
            self._disk.call("write")
        except OSError:
            self._true.write(content[: len(content) // 2])
            self._true.flush()
            raise
        return int(self._true.write(content))

    def flush(self) -> None:
        self._true.flush()

    def close(self) -> None:
        failed = None
        if not self._true.closed:
            try:
                self._disk.call("close")
            except OSError as error:
                failed = error
        self._true.close()
        if failed is not None:
            raise failed

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._true)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._true, name)


def error_of(number: int) -> Callable[[str, tuple[Any, ...]], None]:
    """What raises this error as the kernel would: with the names that the call was given, if any."""

    def fail(name: str, given: tuple[Any, ...]) -> None:
        paths = [path for path in given[:2] if isinstance(path, str | os.PathLike)] if name in (*NAMED, EXCHANGE) else []
        names = [os.fspath(path) for path in paths]
        raise OSError(number, os.strerror(number), *(names[:1] if len(names) < 2 else (names[0], None, names[1])))

    return fail


DEAD = 137
"""The exit code of a process that ended so."""


def death(_: str, __: tuple[Any, ...]) -> None:
    """End the process on the spot, as kill -9 does."""
    os._exit(DEAD)


@contextmanager
def failing(disk: Disk) -> Iterator[Disk]:
    """The disk of this process is that one inside."""
    counted: Mapping[str, Any] = {name: disk.wrapped(name) for name in (*NAMED, "fsync")}
    opening = (mock.patch.object(module, "open", disk.opened) for module in (builtins, io))
    exchanging = mock.patch.object(files, "_exchanged", disk.exchanged)
    with mock.patch.multiple(os, **counted), exchanging, next(opening), next(opening):
        yield disk


ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES, "EROFS": errno.EROFS, "EDQUOT": errno.EDQUOT}
ROOM = ("open", "mkdir", "link", "write", "close", "fsync")
LASTING = {"ENOSPC": ROOM, "EDQUOT": ROOM, "EROFS": (*ROOM, "rename", "replace", EXCHANGE, "unlink", "rmdir")}
"""A disk that is full stays so: whatever takes room fails from then on. One that became read-only takes nothing at all."""
