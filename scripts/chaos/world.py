"""A working directory with a suite of stand-in runs, sweeps over it by the real command line, and what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ATTACKS = ("badnets",)


@dataclass
class World:
    """A working directory: `methods` are those of the stand-in, by name, each with what it sets (see `standin.PLAIN`).

    There are 2 x methods x seeds runs: with an attack and without.
    """

    place: Path
    methods: Mapping[str, Mapping[str, Any]]
    seeds: int
    settings: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, method in self.methods.items():
            self._write(f"conf/defence/{name}.yaml", dict(method))
        first = next(iter(self.methods))
        suite = {"verb": "train", "clean_budget": "none", "seeds": self.seeds, "baseline": first}
        axes = {
            "worlds": {"digits": ["data=digits"]},
            "attacks": {attack: [f"attack={attack}"] for attack in ATTACKS},
            "methods": {name: [f"defence={name}"] for name in self.methods},
        }
        self._write("conf/suite/broken.yaml", {**suite, **axes, "settings": list(self.settings)})

    @property
    def runs(self) -> int:
        """How many runs the suite asks for."""
        return (1 + len(ATTACKS)) * len(self.methods) * self.seeds

    def _write(self, name: str, told: Mapping[str, Any]) -> None:
        place = self.place / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")

    def command(self, outputs: str, *words: str) -> list[str]:
        """The command line that fills the grid."""
        fixed = ("benchmark", "suite=broken", "--config-dir", "conf", "logger=none", f"paths.outputs={outputs}")
        return [sys.executable, str(HERE / "driver.py"), *fixed, *words]

    def variables(self, **more: str) -> dict[str, str]:
        """The environment of a driver: nothing of the caller's that would change what is run."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HYDRA", "TESTBED", "COV"))}
        fixed = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        return {**kept, **fixed, **self.environment, **more}

    def sweep(self, outputs: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Fill the grid and wait."""
        return subprocess.run(
            self.command(outputs, *words),
            cwd=self.place,
            env=self.variables(**variables),
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, outputs: str, log: Path, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        """A driver in a session of its own, so that it and all that it starts can be found and killed together."""
        with log.open("ab") as stream:
            return subprocess.Popen(
                self.command(outputs, *words),
                cwd=self.place,
                env=self.variables(**variables),
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def results(self, outputs: str) -> dict[str, bytes]:
        """What every committed run says, byte for byte, by the name of its folder."""
        found = (self.place / outputs / "train").glob("[!.]*/result.json")
        return {path.parent.name: path.read_bytes() for path in found}

    def journal(self) -> list[dict[str, Any]]:
        """What the runs noted."""
        place = self.place / "journal"
        lines = place.read_text(encoding="utf-8").splitlines() if place.exists() else []
        return [json.loads(line) for line in lines]

    def entries(self, outputs: str) -> dict[str, int]:
        """How many runs of the index ended how."""
        found = [json.loads(path.read_bytes())["status"] for path in (self.place / outputs / "index").glob("*/[!.]*.json")]
        return {status: found.count(status) for status in sorted(set(found))}


def leftovers(*folders: Path) -> list[str]:
    """What is under a temporary name below these folders; the files of locks are none of it, for they stay."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            parts = path.relative_to(folder).parts
            if any(part.startswith(".") and part != ".locks" for part in parts) or path.suffix in (".tmp", ".new"):
                found.append(str(path))
    return sorted(found)


def elsewhere(place: Path) -> Path:
    """A folder on another file system than `place`.

    Raises:
        SystemExit: there is none that anybody may write to.
    """
    for other in (Path("/dev/shm"), Path("/run/shm"), Path.home(), Path("/var/tmp")):
        if other.is_dir() and os.access(other, os.W_OK) and other.stat().st_dev != place.stat().st_dev:
            return other
    raise SystemExit(f"{place}: no other file system here can be written to, and this needs two; mount a tmpfs at /dev/shm")


def members(session: int) -> list[psutil.Process]:
    """The living processes of a session."""
    return [process for process in psutil.process_iter() if _in(process, session)]


def _in(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and living(process.pid)
    except ProcessLookupError:
        return False


def living(process: int) -> bool:
    """Whether this process is there and has not ended, be its end noticed (reaped) or not."""
    try:
        return psutil.Process(process).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def waited(sessions: Sequence[int], seconds: float = 30.0) -> list[int]:
    """The processes of these sessions that are still there after so many seconds."""
    limit = time.monotonic() + seconds
    while (left := [process.pid for session in sessions for process in members(session)]) and time.monotonic() < limit:
        time.sleep(0.1)
    return left


def shown(figures: Mapping[str, Any]) -> Iterator[str]:
    """One line for each figure."""
    width = max(map(len, figures))
    for name, value in figures.items():
        yield f"  {name:<{width}}  {f'{value:.3g}' if isinstance(value, float) else value}"
