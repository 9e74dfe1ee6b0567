"""Every hostile file through the reader, under watch; and the control that shows that the watch sees."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hostile.case import Aim, Case
from hostile.places import NOT_FILES
from hostile.watch import Deeds, Door, state
from testbed.error import Invalid
from testbed.untrusted import opened
from testbed.words import Refused


class Seen(NamedTuple):
    """What became of one file."""

    name: str
    expected: str
    became: str
    said: str
    seconds: float
    markers: int
    written: tuple[str, ...]
    connections: int

    @property
    def is_harmless(self) -> bool:
        return not (self.markers or self.written or self.connections)


class Ground:
    """A place to try things on: the corpus, a home, a working folder, a temporary folder and the folder for markers."""

    def __init__(self, place: Path) -> None:
        self.corpus, self.markers, self.home, self.work, self.temporary = (
            place / name for name in ("corpus", "markers", "home", "work", "temporary")
        )
        for folder in (self.corpus, self.markers, self.home, self.work, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)
        self.door = Door()
        self.aim = Aim(self.markers, self.door.port)
        os.environ["HOME"] = str(self.home)
        tempfile.tempdir = str(self.temporary)
        os.chdir(self.work)
        importlib.import_module("torch")  # which the reader hands tensors back in; importing it starts programs of its own
        self.deeds = Deeds(self.temporary)

    @property
    def watched(self) -> list[Path]:
        return [self.corpus, self.home, self.work, self.temporary, self.markers]

    def try_one(self, name: str, expected: str, path: Path, **limits: float) -> Seen:
        """Open one file, and look what happened."""
        before = state(self.watched)
        self.deeds.found.clear()
        began = _spent()
        self.deeds.watching = True
        try:
            found = opened(path, **limits)  # type: ignore[arg-type]
            became, said = "read", f"{len(found.tensors)} tensors, {found.kind}, {found.sandbox}"
        except Refused as error:
            became, said = "refused" if error.code == 3 else f"exit {error.code}", str(error)
        except Invalid as error:
            became, said = "invalid", str(error)
        except Exception as error:
            became, said = type(error).__name__, str(error)
        finally:
            self.deeds.watching = False
        seconds = _spent() - began
        after = state(self.watched)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        markers = len([path for path in changed if path.startswith(str(self.markers))])
        written = (*sorted(changed), *self.deeds.found)
        return Seen(name, expected, became, said, seconds, markers, written, self.door.knocks())


def made(cases: Sequence[Case], ground: Ground) -> None:
    """Write the files, and beside the folder what each of them would do."""
    for case in cases:
        case.make(ground.corpus / case.name, ground.aim)
    listed = [{"name": case.name, "does": case.does, "expected": case.expected} for case in cases]
    (ground.corpus.parent / "manifest.json").write_text(json.dumps(listed, indent=1), encoding="utf-8")


def tried(cases: Sequence[Case], ground: Ground) -> list[Seen]:
    """Every file, and every path that is none."""
    seen = [ground.try_one(case.name, case.expected, ground.corpus / case.name) for case in cases]
    paths = [(path.format(port=ground.door.port), what) for path, what in NOT_FILES.items()]
    return [*seen, *(ground.try_one(path, "refused", Path(path)) for path, _ in paths)]


def control(cases: Sequence[Case], ground: Ground) -> tuple[list[str], list[str]]:
    """Names of the files with a payload that a careless reader would run, and of those whose payload was seen to run.

    Each is loaded in a process of its own kind, unsafely and on purpose; a marker or a knock that follows is what the watch
    must see. Those that were seen leave no trace afterwards.
    """
    armed = [case for case in cases if case.careless]
    worked = []
    for group in _groups(armed):
        for case, fired in _loaded(group, ground):
            worked += [case.name] if fired else []
    return [case.name for case in armed], worked


def _groups(armed: Sequence[Case]) -> list[list[Case]]:
    return [[case for case in armed if case.careless == loader] for loader in sorted({case.careless for case in armed})]


def _loaded(group: Sequence[Case], ground: Ground) -> list[tuple[Case, bool]]:
    """One process for a group; which file fired is told by its marker's time, or by a knock when it is loaded alone."""
    knocking = [case for case in group if "marker" not in _payload(case, ground)]
    quiet = [case for case in group if case not in knocking]
    found = []
    for batch in ([quiet] if quiet else []) + [[case] for case in knocking]:
        _careless(batch, ground)
        left = {path.name for path in ground.markers.iterdir()}
        knocked = ground.door.knocks()
        for case in batch:
            own = [name for name in left if name.encode() in _payload(case, ground, whole=True)]
            found.append((case, bool(own) or (case in knocking and knocked > 0)))
        for path in ground.markers.iterdir():
            path.unlink()
    return found


def _payload(case: Case, ground: Ground, *, whole: bool = False) -> bytes | str:
    path = ground.corpus / case.name
    data = b"".join(part.read_bytes() for part in sorted(path.iterdir())) if path.is_dir() else path.read_bytes()
    return data if whole else data.decode("latin-1")


def _careless(batch: Sequence[Case], ground: Ground) -> None:
    order = json.dumps([[case.careless, str(ground.corpus / case.name)] for case in batch])
    scripts = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(scripts), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "hostile.careless"]
    subprocess.run(command, input=order, text=True, env=environment, capture_output=True, check=False, timeout=300)


def _spent() -> float:
    """Seconds of processor that this process and those it waited for have used: the same on a busy machine."""
    usage = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in usage)


def worst_memory() -> float:
    """The most MiB that any process started from here had in memory."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
