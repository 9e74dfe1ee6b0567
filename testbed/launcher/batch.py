"""What a job of a Slurm cluster does on its node: runs of a grid, each in a process of its own, until it is told to end."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed.index import Entry, entry, mark, stamp_of, write
from testbed.launcher.processes import prepared, processes
from testbed.launcher.search import SearchPath
from testbed.launcher.slurm import Silent, requeue
from testbed.launcher.task import Task
from testbed.words import Refused, Terminated

LIMIT = signal.SIGUSR2
"""What Slurm sends some time before a job's limit, as submitit asks it to; NCCL uses SIGUSR1 itself."""
SENT = (signal.SIGTERM, signal.SIGUSR1, LIMIT)
"""What Slurm sends to every process of a job, and not to the first alone."""


@dataclass(frozen=True)
class Batch:
    """Runs of one job, `at_a_time` of them side by side. `before` are the marks of their entries when they were submitted.

    `place` is the working directory that they were asked for in, `words` the overrides that the stamp is made with.
    """

    tasks: tuple[Task, ...]
    after: Mapping[str, tuple[str, ...]]
    before: Mapping[str, str]
    place: str
    words: tuple[str, ...] = ()
    at_a_time: int = 1
    requeues: int = 0

    def __call__(self) -> None:
        """Make those that are not done yet: a job that Slurm started once more goes on where it was.

        Raises:
            SystemExit: it was told to end, and what was being made is recorded as interrupted; or nothing can be made here.
        """
        try:
            left = [task for task in self._there() if ended(task, self.before[task.request.key]) is None]
        except Refused as refusal:
            raise SystemExit(self._refused(refusal)) from refusal
        print(f"{len(self.tasks)} runs, {len(left)} of them to be made, {self.at_a_time} at a time", flush=True)
        if not left:
            return
        try:
            with heeding(left[0].threads):
                processes(left, self.after, self.at_a_time, _said)
        except Terminated as end:
            print(f"ended by {end}", flush=True)
            if str(end) != signal.SIGTERM.name:  # which is for those that are cancelled
                self._again()
            raise SystemExit(143) from end

    def _there(self) -> list[Task]:
        """The runs as this node sees them: this process waits for them, and they are stamped with the code that is here now.

        Raises:
            Refused: the node has no such working directory, or no such folder of configuration.
        """
        try:
            os.chdir(self.place)
        except OSError as error:
            advice = "submit from a folder that all nodes share"
            raise Refused(f"there is no working directory {self.place} ({error.strerror}); {advice}", 4) from error
        search = SearchPath(self.tasks[0].config_dir)
        stamp = stamp_of([search.own, *search.users], self.words)
        if stamp != self.tasks[0].stamp:
            print(
                "code, configuration or environment are not what they were at submission; stamped as they are now", flush=True
            )
        return [replace(task, stamp=stamp, driver=os.getpid()) for task in self.tasks]

    def _refused(self, refusal: Refused) -> int:
        for task in self.tasks:
            made = Entry("failed", f"on {socket.gethostname()}: {refusal}", log=str(task.log), code=refusal.code)
            write(Path(task.outputs), task.request.key, made)
        return refusal.code

    def _again(self) -> None:
        """Back to the queue with what is left, so many times."""
        times = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if times >= self.requeues:
            print(f"not queued again: it was {times} times already, and cluster.requeues={self.requeues}", flush=True)
            return
        for each in SENT:  # what requeues is a process of this job too, and is sent what ends it
            signal.signal(each, signal.SIG_IGN)
        try:
            requeue(own_number())
        except Silent as error:  # the driver, or whoever gives the command again, sees that there is something left
            print(f"not queued again: {error}", flush=True)


def own_number() -> str:
    """The number of the job that this process is in, as '12_3': the plain one of an array's job may mean the whole array."""
    place = os.environ.get("SLURM_ARRAY_TASK_ID")
    return os.environ["SLURM_JOB_ID"] if place is None else f"{os.environ['SLURM_ARRAY_JOB_ID']}_{place}"


def ended(task: Task, before: str) -> Entry | None:
    """How a run ended since its entry had this mark; None where it did not yet, or was interrupted and may go on."""
    made = since(task, before)
    return None if made is None or made.status == "interrupted" else made


def since(task: Task, before: str) -> Entry | None:
    """The entry of a run, where it was written after it had this mark."""
    outputs, key = Path(task.outputs), task.request.key
    return entry(outputs, key) if mark(outputs, key) != before else None


@contextmanager
def heeding(threads: int) -> Iterator[None]:
    """Inside, what Slurm sends raises `Terminated`, with the signal's name, in this process and ends no other.

    The process that all workers are forked from is started here with these signals ignored: it must live until the workers
    have recorded what they did.
    """
    before: dict[signal.Signals, Any] = {number: signal.signal(number, signal.SIG_IGN) for number in SENT}
    try:
        prepared(threads)
        for number in SENT:
            signal.signal(number, _told)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told(number: int, _: Any) -> None:
    for each in SENT:  # once is enough: a second must not spoil what is being recorded
        signal.signal(each, signal.SIG_IGN)
    raise Terminated(signal.Signals(number).name)


def _said(task: Task, made: Entry) -> None:
    why = f": {made.reason}" if made.reason else ""
    print(f"{task.request.label}: {made.status} ({made.seconds:.1f} s){why}", flush=True)
