"""`testbed benchmark --dry-run`: which runs there are, which are done, and what the others would take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from testbed.index import Entry
from testbed.launcher.grid import Grid, default_jobs
from testbed.launcher.stages import stages
from testbed.launcher.task import Task
from testbed.plan import Request
from testbed.rules import seeds_to_decide


def forecast(asked: Grid, open_: Sequence[Request], known: Mapping[str, Entry]) -> None:
    """Print the cells with what would be reused, then hours and disk, by runs like them that were made or by the suite."""
    todo = {request.key for request in open_}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("data", "attack", "rate", asked.whole.suite.kind, "seeds", "done"):
        table.add_column(name, no_wrap=True)
    cells: dict[tuple[str, str, float | None, str], list[Request]] = {}
    for request in asked.plan.requests:
        cells.setdefault((request.world, request.attack, request.rate, request.method), []).append(request)
    for (world, attack, rate, method), requests in cells.items():
        seeds = " ".join(str(seed) for seed in dict.fromkeys(request.seed for request in requests))
        trials = len({request.trial for request in requests})
        seeds += f" x {trials} trials" if trials > 1 else ""
        ready = sum(request.key not in todo for request in requests)
        table.add_row(world, attack, "-" if rate is None else f"{rate:g}", method, seeds, f"{ready} of {len(requests)}")
    Console(width=None if Console().is_terminal else 130, highlight=False).print(table)
    print(f"{len(asked.plan.requests)} runs in {len(cells)} cells; {len(asked.plan.requests) - len(open_)} are done already")
    suite = asked.whole.suite
    print(f"seeds: {seeds_to_decide(suite, asked.whole.requests)}")
    made = [(request, known[request.key]) for request in asked.plan.requests if request.key in known]
    seconds = _sum(open_, made, lambda entry: entry.seconds, suite.seconds)
    size = _sum(open_, made, lambda entry: entry.size / 1e6, suite.megabytes)
    jobs = 1 if asked.options.on_cluster else default_jobs(asked.options)
    how = "one after the other" if asked.options.on_cluster else f"with jobs={jobs}"
    print(f"time: {_told(None if seconds is None else seconds / jobs / 3600, 'hours')} {how}")
    if asked.options.on_cluster:
        print(f"jobs: {_stages(asked, open_)}")
    print(f"disk: {_told(size, 'MB')}")


def _stages(asked: Grid, open_: Sequence[Request]) -> str:
    """The arrays of jobs that would be submitted: '2, then 4, then 30'."""
    tasks = [Task(request, str(asked.outputs), asked.group, "") for request in open_]
    found = stages(tasks, asked.whole.after(), asked.options.cluster.runs_per_job)
    told = [f"{len(stage.jobs)}{' after those before' if stage.after else ''}" for stage in found]
    return f"{', '.join(told) or 'none'}; {asked.options.cluster.runs_per_job} runs in each at most"


def _sum(
    open_: Sequence[Request], made: Sequence[tuple[Request, Entry]], cost: Callable[[Entry], float], declared: float | None
) -> float | None:
    """What the open runs cost: each as the median of runs like it (world and method, or world), or as declared."""
    finished = [(request, cost(entry)) for request, entry in made if entry.status in ("done", "skipped")]
    total = 0.0
    for request in open_:
        near = [value for other, value in finished if (other.world, other.method) == (request.world, request.method)]
        near = near or [value for other, value in finished if other.world == request.world]
        guess = median(near) if near else declared
        if guess is None:
            return None
        total += guess
    return total


def _told(amount: float | None, unit: str) -> str:
    return "not known before some runs are made" if amount is None else f"about {amount:.2g} {unit}"
