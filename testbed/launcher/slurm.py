"""Slurm's own commands, as far as a grid needs them: what became of its jobs, how to end them, how large an array may be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from testbed.words import Refused

PATIENCE = 60.0
"""Seconds that a command of Slurm's may take."""
OVER = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED"),
    "TIMEOUT",
}
"""States that a job does not leave by itself. All others mean that it is waiting, running, or about to be again."""
NEEDED = ("sbatch", "squeue", "scancel", "scontrol")
KEPT = ("SLURM_CONF",)


class Silent(Exception):
    """Slurm does not answer, or not now: one line that says what it said."""


class Element(NamedTuple):
    """One job of an array as Slurm sees it: the array's name, its place in it, its number for people, its state and why."""

    name: str
    place: int
    number: str
    state: str
    why: str = ""

    @property
    def live(self) -> bool:
        """Whether it is waiting or running, or will be again."""
        return self.state not in OVER


def require_slurm() -> None:
    """Raises `Refused` where Slurm's commands, or submitit, are not here."""
    missing = [command for command in NEEDED if shutil.which(command) is None]
    if missing:
        raise Refused(
            f"launcher=submitit_slurm: {missing[0]} is not on the path; run it where jobs of a Slurm cluster are submitted"
        )
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise Refused("launcher=submitit_slurm: submitit is not installed; say pip install 'testbed[slurm]'") from error


def cluster_facts() -> tuple[str, int]:
    """The name of the cluster, and how many jobs an array may have.

    Raises:
        Silent: its controller does not answer.
    """
    told = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", _said("scontrol", "show", "config"), re.MULTILINE))
    return told.get("ClusterName", ""), int(told.get("MaxArraySize", 1001))


def elements(names: Sequence[str]) -> dict[tuple[str, int], Element]:
    """What Slurm knows of the arrays with these names: jobs that wait or run, and for some minutes those that are over.

    Raises:
        Silent: it does not answer.
    """
    if not names:
        return {}
    told = _said("squeue", "--array", "--noheader", "--states=all", f"--name={','.join(names)}", "--format=%j|%K|%i|%T|%r")
    found = {}
    for line in told.splitlines():
        name, place, number, state, why = (*line.split("|", 4), "", "", "", "")[:5]
        element = Element(name, int(place) if place.isdecimal() else 0, number, state, why)
        found[name, element.place] = element
    return found


def accounted(number: str) -> str:
    """How the accounting says that a job ended, as 'FAILED, exit code 1:0'; '' where there is none, or it does not know."""
    try:
        told = _said("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={number}", "--format=State,ExitCode")
    except Silent:  # many clusters keep no accounts, and this is a word for people
        return ""
    state, _, code = told.strip().partition("|")
    return f"{state}, exit code {code}" if state else ""


def cancel(numbers: Sequence[str]) -> None:
    """End these jobs, by their numbers.

    Raises:
        Silent: Slurm does not answer.
    """
    if numbers:
        _said("scancel", *numbers)


def requeue(number: str) -> None:
    """Send a running job back to the queue.

    Raises:
        Silent: Slurm does not answer, or the cluster requeues no jobs.
    """
    _said("scontrol", "requeue", number)


@contextmanager
def outside_a_job() -> Iterator[None]:
    """What a surrounding job says in the environment is not passed on to those that are submitted inside."""
    ours = {name: value for name, value in os.environ.items() if _of_a_job(name)}
    for name in ours:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(ours)


def _of_a_job(name: str) -> bool:
    return name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) and name not in KEPT


def _said(*words: str) -> str:
    # Formats of the user's own would change what is read here.
    plain: Mapping[str, str] = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SACCT_"))}
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False, env=plain)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Silent(f"{words[0]}: {error}") from error
    if answer.returncode:
        raise Silent(f"{words[0]}: {' '.join(answer.stderr.split()) or f'exit code {answer.returncode}'}")
    return answer.stdout
