"""A run that costs next to nothing, in place of training: it is recorded, locked, shared and committed like any other.

Nothing here imports PyTorch. What it writes depends on the request alone, so that any two sweeps can be compared byte by
byte; what it notices (two processes in one run at a time, a shared artefact that is torn) goes into `journal` in the working
directory.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed.record import Identity, Origin, Outcome, Workspace, committed, lock, read_json, recorded, write_json

JOURNAL, INSIDE = "journal", "inside"
SHARED = 65536
"""Bytes of what runs share."""
PLAIN = {"how": "well", "pause": 0.0, "bytes": 4096, "faults": {}}
"""What a method of the stand-in may set: how its run ends, the seconds that it takes, the bytes that it writes.

`faults` are other ends of runs with an attack, by seed ('s3').
"""


def train(*, paths: Mapping[str, str], seed: int, origin: Origin | None = None) -> Path:
    """The stand-in for `testbed.pipeline.train.train`: a recorded run with a shared artefact, some files and a result."""
    origin = origin or Origin()
    outputs, method = Path(paths["outputs"]), {**PLAIN, **origin.config.get("defence", {})}
    attack, identity = origin.names.get("attack", "none"), _identity(origin.names, seed, method)

    def work(workspace: Workspace) -> Outcome:
        with inside(identity.folder(outputs).name), workspace.phase("train"):
            shared = _shared(outputs, f"{attack}-{seed}", workspace)
            for part in ("scores", "answers"):
                workspace.write(f"{part}.json", noise(f"{identity.key} {part}", method["bytes"]))
            time.sleep(method["pause"])
            end(method["how"] if attack == "none" else method["faults"].get(f"s{seed}", method["how"]))
            return Outcome(measures={"number": int(identity.key[:8], 16), "shared": int(shared[:8], 16)}, counts={"number": 1})

    return recorded(identity, outputs, origin, work)


def noise(purpose: str, size: int) -> str:
    """Hexadecimal digits that depend on the purpose alone."""
    return hashlib.shake_256(purpose.encode()).hexdigest(size // 2)


def _identity(names: Mapping[str, str], seed: int, method: Mapping[str, Any]) -> Identity:
    told = [names.get(group, "none") for group in ("attack", "defence", "data")]
    key, cell = (hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16] for part in ([told, method["how"], seed], told))
    return Identity("train", f"{'-'.join(told)}-s{seed}", key, key, cell, {}, {})


def _shared(outputs: Path, named: str, workspace: Workspace) -> str:
    """What runs with this name make once and share, as they do a victim: its digest, checked whenever it is read."""
    folder = outputs / "victim" / hashlib.sha256(named.encode()).hexdigest()[:16]
    with lock(folder):
        if not (folder / "card.json").is_file():
            with committed(folder) as place:
                content = noise(named, SHARED).encode()
                (place / "model").write_bytes(content)
                write_json(place / "card.json", {"digest": hashlib.sha256(content).hexdigest()})
            workspace.made.append(f"victim/{folder.name}")
        found = hashlib.sha256((folder / "model").read_bytes()).hexdigest()
        if found != read_json(folder / "card.json")["digest"]:
            note("torn", folder.name)
        return found


# What a run notices of others ---------------------------------------------------------------------------------------------


def note(what: str, name: str) -> None:
    """One line in the journal: appended by one system call, so that a kill leaves it whole or not at all."""
    line = json.dumps({"what": what, "name": name, "process": os.getpid(), "at": time.monotonic_ns()}) + "\n"
    place = os.open(JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(place, line.encode())
    finally:
        os.close(place)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Note the beginning and the end of a run, and whether another living process is in the same run."""
    place = Path(INSIDE) / name
    place.mkdir(parents=True, exist_ok=True)
    mine = place / f"{os.getpid()}-{_born(os.getpid())}"
    mine.touch()
    note("begin", name)
    for other in place.iterdir():  # after `mine` is there: of two that come at once, each sees the other
        process, born = (int(part) for part in other.name.split("-"))
        if other != mine and _born(process) == born:
            note("two at once", name)
    try:
        yield
    finally:
        mine.unlink()
    note("end", name)


def _born(process: int) -> int:
    """When a living process started, in ticks; 0 of one that has ended, reaped or not."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


# Ways to end --------------------------------------------------------------------------------------------------------------


def end(how: str) -> None:
    """End as a faulty method does; 'well' returns."""
    ENDS[how]()


def _well() -> None:
    return None


def _raise() -> None:
    raise ValueError("this method is broken")


def _exit_0() -> None:
    sys.exit(0)


def _exit_3() -> None:
    sys.exit(3)


def _vanish() -> None:
    os._exit(0)


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


def _hang() -> None:
    time.sleep(3600)


def _memory() -> None:
    raise MemoryError("cannot allocate 1 EiB")


def _swallow() -> None:
    """Hangs, and catches whatever asks it to end."""
    while True:
        try:
            time.sleep(3600)
        except BaseException:  # this is the fault
            continue


ENDS = {
    **{"well": _well, "raise": _raise, "exit_0": _exit_0, "exit_3": _exit_3, "vanish": _vanish, "killed": _killed},
    **{"segfault": _segfault, "hang": _hang, "memory": _memory, "swallow": _swallow},
}
