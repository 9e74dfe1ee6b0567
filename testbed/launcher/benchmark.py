"""`testbed benchmark`: the runs of a suite that are not done yet, side by side, and what became of all of them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from testbed.index import REUSABLE, Entry, code_stamp, entry
from testbed.launcher.forecast import forecast
from testbed.launcher.grid import Grid, default_jobs, grid
from testbed.launcher.search import SearchPath
from testbed.launcher.task import Task
from testbed.plan import Request, store
from testbed.words import Terminated


def benchmark(words: Sequence[str], flags: Mapping[str, str], search: SearchPath) -> int:
    """Fill the grid: 0 if every run is done (or skipped, with its reason), 1 if some are not, 130 and 143 where it was ended.

    Raises:
        Refused: a name or a value that cannot be; nothing was run.
    """
    if "--cfg" in flags:
        print((search.own / "benchmark.yaml").read_text(encoding="utf-8"), end="")
        return 0
    asked = grid(words, search)
    stamp = code_stamp([search.own, *search.users])
    known = {request.key: entry(asked.outputs, request.key) for request in asked.plan.requests}
    open_ = [request for request in asked.plan.requests if not _holds(known[request.key], asked, stamp)]
    if "--dry-run" in flags:
        forecast(asked, open_, {key: found for key, found in known.items() if found is not None})
        return 0
    from testbed.launcher.job import require_writable

    require_writable(str(asked.outputs))
    store(asked.whole, ("testbed", "benchmark", *words), asked.outputs)
    print(_head(asked, len(open_)), flush=True)
    if not open_:
        return _summed_up(asked, {}, known)
    _check(asked, open_, search)
    return _filled(asked, open_, known, stamp, flags)


def _holds(found: Entry | None, asked: Grid, stamp: str) -> bool:
    return found is not None and found.holds(asked.outputs, stamp)


def group(asked: Grid) -> str:
    """What the runs of a suite are called together, in W&B and below `outputs/benchmark`."""
    return f"{asked.whole.suite.name}-{asked.whole.suite.hash}"


def _head(asked: Grid, open_: int) -> str:
    whole = len(asked.plan.requests)
    part = "" if asked.options.shard == "1/1" else f", shard {asked.options.shard}"
    departures = "; ".join(asked.whole.departures) or "none"
    return f"{group(asked)}{part}: {whole} runs, {whole - open_} done already; departures from the suite: {departures}"


def _check(asked: Grid, open_: Sequence[Request], search: SearchPath) -> None:
    """Every name that the user added exists; the suite's own are known to.

    Raises:
        Refused: one does not, with the nearest.
    """
    choice = asked.whole.choice
    if not choice.settings and not choice.methods and not asked.more:
        return
    from testbed.launcher.compose import check_names, register

    register(search)
    for request in {request.method: request for request in open_}.values():
        check_names(request.verb, [*request.overrides, *asked.more], search)


def _filled(asked: Grid, open_: Sequence[Request], known: dict[str, Entry | None], stamp: str, flags: Mapping[str, str]) -> int:
    options, done, started = asked.options, dict[str, Entry](), time.monotonic()
    jobs = options.jobs or default_jobs()
    limits = (options.threads, options.timeout, "--debug" in flags, (*asked.more, "logger=none"))
    tasks = [Task(request, str(asked.outputs), group(asked), stamp, flags.get("--config-dir"), *limits) for request in open_]

    def said(task: Task, made: Entry) -> None:
        done[task.request.key] = made
        left = (time.monotonic() - started) / len(done) * (len(tasks) - len(done))
        ahead = f", about {_duration(left)} to go" if len(done) < len(tasks) else ""
        why = f": {made.reason}" if made.reason else ""
        print(f"[{len(done)}/{len(tasks)}] {task.request.label}: {made.status} ({made.seconds:.1f} s{ahead}){why}", flush=True)

    launch = _launcher(options.launcher)
    try:
        launch(tasks, asked.whole.after(), jobs, said)
    except (KeyboardInterrupt, Terminated) as end:
        _summed_up(asked, done, known)
        print("run the same command again to resume", file=sys.stderr)
        return 143 if isinstance(end, Terminated) else 130
    return _summed_up(asked, done, known)


def _launcher(name: str):  # type: ignore[no-untyped-def]
    if name == "basic":
        from testbed.launcher.basic import basic

        return basic
    from testbed.launcher.processes import processes

    return processes


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _summed_up(asked: Grid, done: Mapping[str, Entry], known: Mapping[str, Entry | None]) -> int:
    """Say how it stands with every run: the exit code."""
    now = {request.key: done.get(request.key) or known[request.key] for request in asked.plan.requests}
    found = Counter(made.status if made else "missing" for made in now.values())
    print(", ".join(f"{count} {status}" for status, count in sorted(found.items())), flush=True)
    unmade = [request for request in asked.plan.requests if now[request.key] is None]
    bad = [(request, made) for request in asked.plan.requests if (made := now[request.key]) and made.status not in REUSABLE]
    for request, made in bad:
        print(f"  {made.status}: {request.label}: {made.reason} (log: {made.log})", file=sys.stderr)
    if not bad and not unmade:
        return 0
    refused = [made for made in now.values() if made is not None and made.status == "refused"]
    return 2 if len(refused) == len(now) else 1
