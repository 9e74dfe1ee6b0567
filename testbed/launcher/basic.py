"""Runs one after the other in this process, for looking into one with a debugger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from testbed.index import Entry
from testbed.launcher.task import Task


def basic(tasks: Sequence[Task], after: Mapping[str, Sequence[str]], jobs: int, said: Callable[[Task, Entry], None]) -> None:
    """Run the tasks in their order, in which nothing comes before what it comes `after`; what they print is seen."""
    from testbed.launcher.work import work

    for task in tasks:
        said(task, work(task, False))
