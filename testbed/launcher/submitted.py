"""What was submitted to a cluster and may still be waiting there, so that nobody submits it twice: a file for each array."""

from __future__ import annotations

import json
import math
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testbed.files import write_whole
from testbed.words import Refused

SCHEMA = 1


@dataclass(frozen=True)
class Submission:
    """An array of jobs: its name in the queue, the cluster, and for each job its runs with the marks that their entries had."""

    name: str
    cluster: str
    jobs: tuple[Mapping[str, str], ...]

    def note(self, home: Path) -> None:
        """Write it down; before it is submitted, for nobody finds out what jobs are for that nobody wrote down."""
        write_whole(home / f"{self.name}.json", json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")

    def age(self, home: Path) -> float:
        """Seconds since it was written down."""
        try:
            return time.time() - (home / f"{self.name}.json").stat().st_mtime
        except FileNotFoundError:  # forgotten since, by whoever submitted it
            return math.inf

    def folder(self, home: Path) -> Path:
        """Where submitit puts what the jobs are started with, which is unpickled there, and their logs: the user's own."""
        place = home / self.name
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        return place

    def forget(self, home: Path) -> None:
        """It is over: the logs stay, where there are some."""
        folder = home / self.name
        for leftover in folder.glob("*.pkl"):
            leftover.unlink(missing_ok=True)
        if not any(folder.glob("*_log.*")):
            shutil.rmtree(folder, ignore_errors=True)
        (home / f"{self.name}.json").unlink(missing_ok=True)


def named(cluster: str, jobs: Sequence[Mapping[str, str]]) -> Submission:
    """One of its own name."""
    return Submission(f"testbed-{uuid.uuid4().hex[:12]}", cluster, tuple(jobs))


def earlier(home: Path, cluster: str) -> list[Submission]:
    """Those that were noted here for this cluster and not forgotten yet; another version's notes are none.

    Raises:
        Refused: a note cannot be read.
    """
    found = []
    for path in sorted(home.glob("testbed-*.json")):
        try:
            told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if told.pop("schema", None) == SCHEMA and told["cluster"] == cluster:
                found.append(Submission(**{**told, "jobs": tuple(told["jobs"])}))
        except FileNotFoundError:  # forgotten since, by whoever submitted it
            continue
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            advice = f"delete it once squeue --name={path.stem} shows nothing"
            raise Refused(f"{path}: what was submitted cannot be read there ({error}); {advice}", 4) from error
    return found
