"""Runs one after the other in this process, for looking into one with a debugger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from testbed.index import Entry
from testbed.launcher.interruption import stop_if_asked
from testbed.launcher.task import Task
from testbed.words import Terminated


def basic(tasks: Sequence[Task], after: Mapping[str, Sequence[str]], jobs: int, said: Callable[[Task, Entry], None]) -> None:
    """Run the tasks in their order, in which nothing comes before what it comes `after`; what they print is seen.

    Raises:
        KeyboardInterrupt, Terminated: what ended a run ends the grid.
    """
    from testbed.launcher.work import work

    for task in tasks:
        made = work(task, False)
        said(task, made)
        stop_if_asked()
        if made.code == 130:
            raise KeyboardInterrupt
        if made.code == 143:
            raise Terminated("SIGTERM")
