"""`testbed benchmark`: the runs of a suite that are not done yet, side by side, and what became of all of them."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from testbed.index import REUSABLE, Entry, entry, stamp_of
from testbed.launcher.forecast import forecast
from testbed.launcher.grid import Grid, default_jobs, grid
from testbed.launcher.interruption import RESUME, code_of, how
from testbed.launcher.search import SearchPath
from testbed.launcher.task import Task, quoted
from testbed.plan import Request, key_of, store
from testbed.words import Terminated

RESOURCES = 4
"""The exit code of a run that a full, read-only or failing disk kept from being recorded."""
KNOWN = ("paths.outputs", "paths.data")
"""Settings that every verb has: to look them up would cost a second."""


def benchmark(words: Sequence[str], flags: Mapping[str, str], search: SearchPath) -> int:
    """Fill the grid: 0 if every run is done (or skipped, with its reason), 1 if some are not, 4 if a disk is why, 130 and 143
    where it was ended.

    Raises:
        Refused: a name or a value that cannot be; nothing was run.
    """
    if "--cfg" in flags:
        print((search.own / "benchmark.yaml").read_text(encoding="utf-8"), end="")
        return 0
    filling = Filling(grid(words, search), flags, search)
    if "--dry-run" in flags:
        forecast(filling.asked, filling.open, filling.known)
        return 0
    from testbed.launcher.job import require_writable
    from testbed.tidy import tidy

    require_writable(str(filling.asked.outputs))
    tidy(filling.asked.outputs)
    store(filling.asked.whole, ("testbed", "benchmark", *words), filling.asked.outputs)
    print(filling.head(), flush=True)
    if filling.open:
        filling.check()
        ended = filling.fill()
        tidy(filling.asked.outputs)  # of runs that were killed
        if ended:
            return ended
    return filling.summed_up()


@dataclass
class Filling:
    """A grid being filled: `known` is what became of its runs, by key; `open` are those that are still to be made."""

    asked: Grid
    flags: Mapping[str, str]
    search: SearchPath
    known: dict[str, Entry] = field(default_factory=dict)
    stamp: str = ""

    def __post_init__(self) -> None:
        words = [word for request in self.asked.plan.requests for word in request.overrides]
        self.stamp = stamp_of([self.search.own, *self.search.users], words)
        found = {request.key: entry(self.asked.outputs, request.key) for request in self.asked.plan.requests}
        self.known = {key: made for key, made in found.items() if made is not None}
        self.open = [request for request in self.asked.plan.requests if not self._holds(request)]

    def _holds(self, request: Request) -> bool:
        made = self.known.get(request.key)
        return made is not None and made.holds(self.asked.outputs, self.stamp)

    def head(self) -> str:
        """One line on what there is to do."""
        options, whole = self.asked.options, len(self.asked.plan.requests)
        part = "" if options.shard == "1/1" else f", shard {options.shard}"
        departures = "; ".join(self.asked.whole.departures) or "none"
        done = whole - len(self.open)
        return f"{self.asked.group}{part}: {whole} runs, {done} done already; departures from the suite: {departures}"

    def check(self) -> None:
        """Every name that the user added exists; the suite's own are known to.

        Raises:
            Refused: one does not, with the nearest.
        """
        choice = self.asked.whole.choice
        settings = [word for word in choice.settings if key_of(word) not in KNOWN]
        if not (self.asked.logging or settings or choice.methods):
            return
        from testbed.launcher.compose import check_names, composed, register

        register(self.search)
        if self.asked.logging:
            composed("sync", self._shown_by(), self.search)
        if not (settings or choice.methods):
            return
        for request in {request.method: request for request in self.open}.values():
            check_names(request.verb, request.overrides, self.search)

    def fill(self) -> int:
        """Make the open runs, then show all of them in W&B: 0, or the exit code of an interruption."""
        options = self.asked.options
        launch: Callable[..., None] = getattr(import_module(f"testbed.launcher.{options.launcher}"), options.launcher)
        more = {"cluster": options.cluster} if options.on_cluster else {}
        try:
            launch(self._tasks(), self.asked.whole.after(), default_jobs(options), self._teller(), **more)
        except (KeyboardInterrupt, Terminated) as end:
            self.summed_up()
            done = sum(made.status in REUSABLE for made in self.known.values())
            whole = len(self.asked.plan.requests)
            print(f"{how(end)}: {done}/{whole} done; {RESUME}", file=sys.stderr, flush=True)
            return code_of(end)
        if options.logger != "none":
            self._show()
        return 0

    def _tasks(self) -> list[Task]:
        options, asked = self.asked.options, self.asked
        limits: dict[str, Any] = {"threads": options.threads, "timeout": options.timeout, "debug": "--debug" in self.flags}
        place = (str(asked.outputs), asked.group, self.stamp, self.flags.get("--config-dir"))
        return [Task(request, *place, **limits) for request in self.open]

    def _teller(self) -> Callable[[Task, Entry], None]:
        """What notes and prints each end, with how long the others will take."""
        ends, started = 0, time.monotonic()

        def said(task: Task, made: Entry) -> None:
            nonlocal ends
            ends += 1
            self.known[task.request.key] = made
            left = (time.monotonic() - started) / ends * (len(self.open) - ends)
            ahead = f", about {_duration(left)} to go" if left else ""
            why = f": {made.reason}" if made.reason else ""
            head = f"[{ends}/{len(self.open)}] {task.request.label}"
            print(f"{head}: {made.status} ({made.seconds:.1f} s{ahead}){why}", flush=True)

        return said

    def _show(self) -> None:
        """Show the runs and their leaderboard in W&B: a view, which changes no exit code."""
        from testbed.launcher.compose import composed, plain, register
        from testbed.launcher.job import Job, run

        register(self.search)
        found = composed("sync", self._shown_by(), self.search)
        run(Job("sync", plain(found.config), found.choices, debug="--debug" in self.flags))

    def _shown_by(self) -> list[str]:
        """The words of `testbed sync` that show this suite."""
        outputs = quoted(str(self.asked.outputs))
        places = (f"runs={outputs}", f"paths.outputs={outputs}", f"group={self.asked.group}")
        return [*places, f"logger={self.asked.options.logger}", *self.asked.logging]

    def summed_up(self) -> int:
        """Say how it stands with every run: the exit code."""
        ends = {request: self.known.get(request.key) for request in self.asked.plan.requests}
        found = Counter(made.status if made else "missing" for made in ends.values())
        print(", ".join(f"{count} {status}" for status, count in sorted(found.items())), flush=True)
        bad = {request: made for request, made in ends.items() if made and made.status not in REUSABLE}
        for request, made in bad.items():
            log = f" (log: {made.log})" if Path(made.log).is_file() else ""  # in this process it was printed
            print(f"  {made.status}: {request.label}: {made.reason}{log}", file=sys.stderr)
            print(f"    alone: {self._alone(request)}", file=sys.stderr)
        if not bad and all(ends.values()):
            return 0
        codes = {made.code if made else 0 for made in ends.values()}
        if RESOURCES in codes:  # the others would meet the same disk
            return RESOURCES
        return max(codes) if len(codes) == 1 else 1

    def _alone(self, request: Request) -> str:
        """The command that makes one run by itself, where all can be seen."""
        folder = self.flags.get("--config-dir")
        place = (f"paths.outputs={quoted(str(self.asked.outputs))}", *(("--config-dir", folder) if folder else ()))
        return shlex.join(("testbed", request.verb, *request.overrides, *place))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
