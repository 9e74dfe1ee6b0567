"""Several drivers that fill one folder of outputs: each run is made by one of them, and the others go on with other runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testbed.index import FOLDER, Entry, entry
from testbed.launcher.task import Task
from testbed.lock import attempted, holder, lock

AGAIN = 1.0
"""Seconds until a run that another driver was making is looked at again."""
PATIENCE = 1.0
"""Seconds in which a run is tried to be had: another driver that only looks has it for less."""


@contextmanager
def turn(task: Task) -> Iterator[None]:
    """Nobody else makes this run inside; where another driver does, it is waited for."""
    claim = _claim(task)
    with lock(claim, lambda _: print(f"{task.request.label}: waiting for {holder(claim)}, which is making it", flush=True)):
        yield


@contextmanager
def tried(task: Task) -> Iterator[bool]:
    """The same without waiting for others: whether this run is this process's own inside."""
    until = time.monotonic() + PATIENCE
    while True:
        with attempted(_claim(task)) as mine:
            if mine or time.monotonic() > until:
                yield mine
                return
        time.sleep(PATIENCE / 20)


def finished(task: Task) -> Entry | None:
    """The entry of a run that needs not be made any more."""
    made = entry(Path(task.outputs), task.request.key)
    return made if made is not None and made.holds(Path(task.outputs), task.stamp) else None


@dataclass
class Queue:
    """Runs that wait: none is next before those that it comes `after` have ended, or while another driver is making it."""

    waiting: list[Task]
    after: Mapping[str, Sequence[str]]
    held: dict[str, float] = field(default_factory=dict)

    def next(self, running: Sequence[Task]) -> Task | None:
        """The first that can be started now; it waits no more."""
        open_keys = {task.request.key for task in (*self.waiting, *running)}
        for task in self.waiting:
            if not open_keys & set(self.after.get(task.request.key, ())) and self._free(task):
                self.waiting.remove(task)
                return task
        return None

    def held_by_another(self, task: Task) -> None:
        """Back to those that wait: another driver was faster."""
        self.waiting.insert(0, task)
        self._hold(task)

    def _free(self, task: Task) -> bool:
        key = task.request.key
        if time.monotonic() < self.held.get(key, 0.0):
            return False
        with attempted(_claim(task), sign=False) as mine:
            if mine:
                self.held.pop(key, None)
                return True
        self._hold(task)
        return False

    def _hold(self, task: Task) -> None:
        if task.request.key not in self.held:
            print(f"{task.request.label}: {holder(_claim(task))} is making it", flush=True)
        self.held[task.request.key] = time.monotonic() + AGAIN


def _claim(task: Task) -> Path:
    return Path(task.outputs) / FOLDER / task.request.key
