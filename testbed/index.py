"""What became of every run that a suite asked for, so that a finished suite is recognised without composing or importing.

A cache beside the run folders: an entry holds as long as testbed's code and configuration, and the files of others that the
run read, are what they were; without one, a run is composed and recognised by its key.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
FOLDER = "index"
REUSABLE = ("done", "skipped")


@dataclass(frozen=True)
class Entry:
    """How a request ended: its status and why, the run folder below the outputs ('' where it left none), what it cost.

    `stamp` is that of the code when it ran, `watched` those of other people's files that took part.
    """

    status: str
    reason: str = ""
    folder: str = ""
    seconds: float = 0.0
    size: int = 0
    log: str = ""
    stamp: str = ""
    watched: Mapping[str, str] = field(default_factory=dict)

    def holds(self, outputs: Path, stamp: str) -> bool:
        """Whether there is nothing to do: it went well, its folder is still there, and nothing that made it has changed."""
        return (
            self.status in REUSABLE
            and self.stamp == stamp
            and (outputs / self.folder / "result.json").is_file()
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
    place = _place(outputs, key)
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.with_name(f".{key}.{os.getpid()}")
    new.write_text(json.dumps(asdict(made)), encoding="utf-8")
    new.replace(place)


def code_stamp(folders: Sequence[Path]) -> str:
    """16 hexadecimal digits over testbed's sources and the configuration in these folders."""
    whole = hashlib.sha256()
    for home, pattern in ((PACKAGE, "*.py"), *((folder, "*.yaml") for folder in folders)):
        for path in sorted(home.rglob(pattern)):
            whole.update(str(path.relative_to(home)).encode() + b"\0" + path.read_bytes() + b"\0")
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


def _listing(folder: Path) -> list[str]:
    found = []
    for home, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        for name in sorted(names):
            state = os.stat(os.path.join(home, name), follow_symlinks=False)
            found.append(f"{os.path.relpath(home, folder)}/{name}:{state.st_size}:{state.st_mtime_ns}\n")
    return found


def _place(outputs: Path, key: str) -> Path:
    return outputs / FOLDER / key[:2] / f"{key}.json"
