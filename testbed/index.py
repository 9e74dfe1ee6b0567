"""What became of every run that a suite asked for, so that a finished suite is recognised without composing or importing.

A cache beside the run folders: an entry holds as long as testbed's code and configuration, and the files of others that the
run read, are what they were; without one, a run is composed and recognised by its key.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from testbed.files import digest, write_whole

PACKAGE = Path(__file__).parent
FOLDER = "index"
REUSABLE = ("done", "skipped")
VARIABLE = re.compile(r"oc\.env:\s*([A-Za-z_][A-Za-z_0-9]*)")


@dataclass(frozen=True)
class Entry:
    """How a request ended: its status and why, the run folder below the outputs ('' where it left none), what it cost.

    `record` is the SHA-256 of its `result.json`, `code` the exit code that it would have had alone. `stamp` is that of the
    code when it ran, `watched` those of other people's files that took part.
    """

    status: str
    reason: str = ""
    folder: str = ""
    seconds: float = 0.0
    size: int = 0
    log: str = ""
    code: int = 0
    stamp: str = ""
    watched: Mapping[str, str] = field(default_factory=dict)
    record: str = ""

    def holds(self, outputs: Path, stamp: str) -> bool:
        """Whether there is nothing to do: it went well, its record is what it was, and nothing that made it has changed."""
        result = outputs / self.folder / "result.json"
        return (
            self.status in REUSABLE
            and self.stamp == stamp
            and result.is_file()
            and digest(result) == self.record
            and all(file_stamp(Path(path)) == then for path, then in self.watched.items())
        )


def entry(outputs: Path, key: str) -> Entry | None:
    """The entry of a request; None where it was never run, or the entry is of another version."""
    try:
        told = json.loads(_place(outputs, key).read_text(encoding="utf-8"))
        return Entry(**told)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):  # a cache of another version is no cache
        return None


def write(outputs: Path, key: str, made: Entry) -> None:
    """Replace the entry of a request, in one step."""
    write_whole(_place(outputs, key), json.dumps(asdict(made)))


def mark(outputs: Path, key: str) -> str:
    """What tells whether the entry of a request was written anew, by this machine or another; '' where there is none."""
    try:
        state = _place(outputs, key).stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return f"{state.st_mtime_ns}:{state.st_ino}"


def stamp_of(folders: Sequence[Path], words: Sequence[str]) -> str:
    """16 hexadecimal digits over testbed's sources, the configuration in these folders, and what else gives words a meaning.

    That is the working directory, where relative paths and a user's modules lie, and the variables that configuration reads.
    """
    whole, names = hashlib.sha256(os.getcwd().encode()), set[str]()
    for home, ending in ((PACKAGE, ".py"), *((folder, ".yaml") for folder in folders)):
        for path in _files(home):
            if path.endswith(ending):
                content = Path(path).read_bytes()
                whole.update(os.path.relpath(path, home).encode() + b"\0" + content + b"\0")
                names |= set(VARIABLE.findall(content.decode("utf-8", "replace"))) if ending == ".yaml" else set()
    names |= {name for word in words for name in VARIABLE.findall(word)}
    whole.update(json.dumps([(name, os.environ.get(name)) for name in sorted(names)]).encode())
    return whole.hexdigest()[:16]


def watched(paths: Iterable[Path]) -> dict[str, str]:
    """The stamps of these files and folders, by absolute path."""
    return {str(path.absolute()): file_stamp(path.absolute()) for path in paths}


@cache
def file_stamp(path: Path) -> str:
    """Size and time of change of a file, or a digest over those of all files in a folder; '' where there is nothing."""
    if path.is_dir():
        return hashlib.sha256("".join(_listing(path)).encode()).hexdigest()[:16]
    try:
        state = path.stat()
    except OSError:
        return ""
    return f"{state.st_size}:{state.st_mtime_ns}"


def _listing(folder: Path) -> Iterator[str]:
    for path in _files(folder):
        try:
            state = os.stat(path)
        except OSError:  # a link that leads nowhere
            yield f"{os.path.relpath(path, folder)}\n"
        else:
            yield f"{os.path.relpath(path, folder)}:{state.st_size}:{state.st_mtime_ns}\n"


def _files(folder: Path) -> Iterator[str]:
    """Every file below a folder, in order, links followed, hidden folders left out."""
    seen = set[str]()
    for home, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(home)
        folders[:] = () if real in seen else sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        yield from (os.path.join(home, name) for name in sorted(names) if real not in seen)
        seen.add(real)


def _place(outputs: Path, key: str) -> Path:
    return outputs / FOLDER / key[:2] / f"{key}.json"
