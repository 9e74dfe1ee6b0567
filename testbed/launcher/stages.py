"""Runs put together to jobs, and jobs to stages: what shares a victim stays together, and no job comes before what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from testbed.launcher.task import Task


@dataclass
class Stage:
    """Jobs that can be queued as one array: each a list of runs in their order; `after` are the stages that come first."""

    jobs: list[list[Task]]
    after: tuple[int, ...] = ()


def stages(tasks: Sequence[Task], after: Mapping[str, Sequence[str]], runs_per_job: int) -> list[Stage]:
    """The fewest stages in which nothing comes before what it comes `after`, in the order in which they can be queued.

    Those of which others need something are stages of their own, so that nobody waits for more than it must.
    """
    pieces = list(_pieces(tasks, runs_per_job))
    home = {task.request.key: place for place, piece in enumerate(pieces) for task in piece}
    needs = [_needs(place, piece, after, home) for place, piece in enumerate(pieces)]
    needed = set().union(*needs)
    depth: list[int] = []
    for need in needs:  # a piece needs earlier ones alone, for the plan has victims before their dependents
        depth.append(1 + max((depth[other] for other in need), default=-1))
    kinds = [(depth[place], place not in needed) for place in range(len(pieces))]
    order = sorted(set(kinds))
    found = [Stage([]) for _ in order]
    for place, piece in enumerate(pieces):
        stage = found[order.index(kinds[place])]
        stage.after = tuple(sorted({*stage.after, *(order.index(kinds[other]) for other in needs[place])}))
        if stage.jobs and len(stage.jobs[-1]) + len(piece) <= runs_per_job:
            stage.jobs[-1] += piece
        else:
            stage.jobs.append(list(piece))
    return found


def _pieces(tasks: Sequence[Task], size: int) -> Iterator[list[Task]]:
    """What shares a victim, cut where it is more than a job makes; a victim's first piece has the run that makes it."""
    victims: dict[tuple[object, ...], list[Task]] = {}
    for task in tasks:
        victims.setdefault(task.request.victim, []).append(task)
    for mates in victims.values():
        yield from (mates[start : start + size] for start in range(0, len(mates), size))


def _needs(place: int, piece: Sequence[Task], after: Mapping[str, Sequence[str]], home: Mapping[str, int]) -> set[int]:
    keys = (key for task in piece for key in after.get(task.request.key, ()))
    return {home[key] for key in keys if key in home} - {place}
