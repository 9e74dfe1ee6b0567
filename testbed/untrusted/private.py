"""A copy of a local file that nobody else can reach, hashed as it is made: what was checked is what is read."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from testbed.error import Invalid
from testbed.untrusted import limits
from testbed.untrusted.plain import printable
from testbed.words import Refused

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # pathlib makes one slash of two
SYSTEM = ("/proc", "/sys", "/dev")
BLOCK = limits.MIB


class Copy(NamedTuple):
    """A file without a name, open for reading alone, its size, and the sha256 of its bytes."""

    file: IO[bytes]
    size: int
    sha256: str


class Source(NamedTuple):
    """What is to be read: where it came from, its copy, of a folder the configuration's too, and the sha256 of it all."""

    path: Path
    suffix: str
    copy: Copy
    configuration: Copy | None
    sha256: str

    @property
    def parts(self) -> tuple[Copy, ...]:
        return (self.copy,) if self.configuration is None else (self.copy, self.configuration)


def check_local(path: Path) -> None:
    """Refuse what is no place on this machine's disks.

    Raises:
        Refused: an address, or a file that the system makes up.
    """
    if ADDRESS.match(str(path)) and not path.exists():
        raise Refused(
            f"{shown(path)}: only local files are read; download it yourself, compare its sha256, and give its path", 3
        )
    if any(os.path.realpath(path).startswith(f"{place}/") for place in SYSTEM):
        raise Refused(f"{shown(path)}: a file of the system's, not of a disk", 3)


def shown(path: Path) -> str:
    """The path as it can be printed."""
    return printable(str(path), 300)


@contextmanager
def copied(path: Path, most: int = limits.FILE, folder: int | None = None) -> Iterator[Copy]:
    """A private copy of a regular file, not followed if a link; `folder` is its folder, open: the name is looked up in that.

    Raises:
        Refused: it is a link, a pipe, a socket or a device.
        Invalid: it is not there, too large, or changed while it was read.
    """
    source = _opened(path, folder)
    with os.fdopen(source, "rb", buffering=0) as file, _nameless() as (writing, own):
        size = os.fstat(source).st_size
        if size > most:
            raise Invalid("path", shown(path), f"has {size} bytes; at most {most} are read", "give a smaller file")
        digest, left = hashlib.sha256(), size
        while left and (block := file.read(min(BLOCK, left))):
            digest.update(block)
            writing.write(block)
            left -= len(block)
        if left or file.read(1):
            raise Invalid("path", shown(path), "changed while it was read", "wait until it is whole")
        writing.close()
        yield Copy(own, size, digest.hexdigest())


@contextmanager
def _nameless() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A file open twice, to write and to read, whose name is gone: who gets the second cannot write with it."""
    written, name = tempfile.mkstemp()
    with os.fdopen(written, "wb") as writing:
        try:
            reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        finally:
            os.unlink(name)
        with os.fdopen(reading, "rb") as own:
            os.fchmod(written, stat.S_IRUSR)  # nor may it be opened anew through /proc, where there is no Landlock
            yield writing, own


def _opened(path: Path, folder: int | None) -> int:
    name = path if folder is None else path.name
    try:
        state = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(state.st_mode):
            raise Refused(f"{shown(path)}: a symbolic link, which is not followed; {_instead(path, folder)}", 3)
        if not stat.S_ISREG(state.st_mode):
            raise Refused(f"{shown(path)}: no regular file (a pipe, a socket, a device or a folder)", 3)
        # Meanwhile somebody may put something else there: the flags hold for that too, and what is open is looked at again.
        found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise Invalid(
            "path", shown(path), (error.strerror or str(error)).lower(), "give the path of a file that you may read"
        ) from error
    except ValueError as error:  # a NUL in the name
        raise Invalid("path", shown(path), str(error)) from error
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise Refused(f"{shown(path)}: no regular file", 3)
    return found


def _instead(path: Path, folder: int | None) -> str:
    """What to give in place of a link: in a folder (a snapshot in Hugging Face's cache, say) every file may be one."""
    if folder is None:
        return "give what it leads to, which `readlink -f` says"
    return f"give a copy of the folder with the files themselves: cp -rL {shown(path.parent)} COPY"
