"""Files and folders that are written whole or not at all, and last: what a crash or a full disk leaves is the old or the new.

What is written lies under a temporary name in the same folder, is brought to the disk, takes its name, and then the folder
is brought to the disk: never through TMPDIR, for a rename between file systems is a copy that can be cut off.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

DIGESTS = "digests.json"
"""The SHA-256 of every other file of a committed folder, by its name in it."""
REPLACED = ".replaced"
OLD = 86400.0
"""Seconds after which nobody can still be writing a file, whatever machine it was: its number may be another process's now."""


class Damaged(OSError):
    """A file is not what was written: its SHA-256 is another."""


def write_whole(place: Path, content: str | bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace a file in one step, its folder made if need be: nobody reads half of it, however many write it at once.

    `durable` waits for the disk; what can be made again at no cost does without.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    new = beside(place)
    try:
        with naming(new), open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(content.encode("utf-8") if isinstance(content, str) else content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        new.replace(place)
    except BaseException:
        with suppress(OSError):  # a disk that takes nothing keeps it: swept later, and the first error is told
            new.unlink(missing_ok=True)
        raise
    if durable:
        to_disk(place.parent)


def beside(place: Path) -> Path:
    """A new name in the same folder, by which `sweep` knows who wrote there."""
    return place.with_name(f".{place.name[:100]}~{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:8]}")


def to_disk(place: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(place, os.O_RDONLY)
    try:
        with naming(place):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming(place: Path) -> Iterator[None]:
    """An error of the disk inside names this place, where the kernel names none (a write) or a part."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and not (error.filename and os.path.isabs(str(error.filename))):
            error.filename = str(place)
        raise


@contextmanager
def committed(final: Path, still_mine: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A temporary folder beside `final` that takes its place when all went well, and vanishes when not; `final` is locked.

    With its place it takes `digests.json`, over every file in it. `still_mine` raises where the lock was lost meanwhile:
    whoever has it now may be writing here.
    """
    still_mine()
    restore(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    replaced = temporary.with_name(f"{temporary.name}{REPLACED}")
    try:
        with naming(temporary):
            yield temporary
            seal(temporary)
            _all_to_disk(temporary)
        still_mine()
        if final.exists() and not _exchanged(temporary, final):
            final.rename(replaced)
        if not final.exists():
            try:
                temporary.rename(final)
            except BaseException:
                restore(final, keep=temporary)
                raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # what a disk does not let go is swept later; the first error is told
        raise
    to_disk(final.parent)
    for old in (temporary, replaced):
        if old.exists():
            with naming(old):
                shutil.rmtree(old)


def restore(final: Path, keep: Path | None = None) -> None:
    """Bring the place of a folder in order after a crash: what had been moved aside comes back, what was half made goes.

    Only for whoever holds its lock: nobody else may be making this folder.
    """
    leftovers = [place for place in final.parent.glob(f".{_literal(final.name)}.*") if place != keep]
    for leftover in leftovers:
        if leftover.name.endswith(REPLACED) and not final.exists():
            leftover.rename(final)
        else:
            shutil.rmtree(leftover)


def sweep(folder: Path) -> None:
    """Remove what lies here by a name of `beside` since a process of this machine was killed, or any a day ago."""
    for place, host, process in strays(folder):
        here = host == socket.gethostname() and process.isdecimal()
        with suppress(FileNotFoundError):  # another process sweeps as well
            if (here and not lives(int(process))) or time.time() - place.stat().st_mtime > OLD:
                if place.is_dir() and not place.is_symlink():
                    shutil.rmtree(place)
                else:
                    place.unlink()


def strays(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """What lies here by a name of `beside`, with the machine and the process that it names."""
    for place in folder.glob(".*~*~*~*"):
        _, host, process, _ = place.name.rsplit("~", 3)
        yield place, host, process


def lives(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so it is there
        return True
    return True


def leftovers(parent: Path) -> dict[str, dict[Path, str]]:
    """Temporary folders below `parent`, of crashes or of processes at work, by the name of what they were to become.

    Each with the process that it names.
    """
    found: dict[str, dict[Path, str]] = {}
    for place in parent.glob(".*.*.*") if parent.is_dir() else ():
        name = place.name.removesuffix(REPLACED)[1:].rsplit(".", 2)
        if len(name) == 3 and name[1].isdecimal() and place.is_dir():
            found.setdefault(name[0], {})[place] = name[1]
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """What `digests.json` of a folder says; nothing where there is none.

    Raises:
        Damaged: it cannot be read.
    """
    try:
        found = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise Damaged(f"{folder / DIGESTS} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise Damaged(f"{folder / DIGESTS} holds no digests")
    return found


def verify(folder: Path, *names: str) -> dict[str, str]:
    """The folder's digests, once the files of these names, or all that they know, are found to be what was written.

    Raises:
        Damaged: one is missing or another, by its name.
    """
    known = digests(folder)
    for name in names or known:
        if name not in known:
            raise Damaged(f"{folder / name} has no digest in {DIGESTS}")
        if not (folder / name).is_file():
            raise Damaged(f"{folder / name} is missing")
        if digest(folder / name) != known[name]:
            raise Damaged(f"{folder / name} is not what was written: its SHA-256 is another than {DIGESTS} says")
    return known


def write_json(path: Path, value: Any) -> None:
    """JSON that is the same whenever the value is the same; NaN has no place in it. For files of a folder that is committed."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two folders have changed places in one step; not every file system and system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    here, exchange = -100, 2  # paths as they are; RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def seal(folder: Path) -> None:
    """Write the digests of what lies in the folder now."""
    write_json(folder / DIGESTS, measured(folder))


def measured(folder: Path) -> dict[str, str]:
    """The SHA-256 of what lies in a folder, by name; a folder inside that was committed by itself has its own digests."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS)
    return {path.relative_to(folder).as_posix(): digest(path) for path in files}


def _all_to_disk(folder: Path) -> None:
    for home, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(home, name)
            if stat.S_ISREG(path.lstat().st_mode):
                to_disk(path)
        to_disk(Path(home))


def _literal(name: str) -> str:
    """A name in which a pattern finds nothing but itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
