"""Runs as jobs of a cluster: nothing before what it needs, victims together, every run once; and what a job does then."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.index import Entry, entry, mark, write
from testbed.launcher.batch import Batch, ended
from testbed.launcher.cluster import Cluster
from testbed.launcher.stages import stages
from testbed.launcher.task import Task
from testbed.plan import Choice, planned
from testbed.suite import Suite

SUITE = Suite(
    name="small",
    verb="train",
    clean_budget="none",
    seeds=2,
    worlds={"digits": ["data=digits"], "icons": ["data=icons"]},
    attacks={"badnets": ["attack=badnets"], "text": {"settings": ["attack=text"], "worlds": ["icons"]}},
    methods={name: [f"defence={name}"] for name in ("none", "repair", "filter")},
    rates={"attack.poison_rate": [0.01, 0.05]},
)
PLAN = planned(SUITE, Choice())
TASKS = [Task(request, "outputs", "small", "stamp") for request in PLAN.requests]
AFTER = PLAN.after()


@given(st.sets(st.sampled_from(range(len(TASKS))), min_size=1), st.integers(1, 12))
def test_every_run_is_in_one_job_after_what_it_needs_and_no_job_is_too_large(chosen: set[int], size: int) -> None:
    tasks = [TASKS[place] for place in sorted(chosen)]
    found = stages(tasks, AFTER, size)
    assert sorted(task.request.key for stage in found for job in stage.jobs for task in job) == sorted(
        task.request.key for task in tasks
    )
    assert all(0 < len(job) <= size for stage in found for job in stage.jobs)
    order = count()
    home = {}
    for number, stage in enumerate(found):
        assert all(other < number for other in stage.after)
        for place, job in enumerate(stage.jobs):
            home |= {task.request.key: (number, place, next(order)) for task in job}
    for task in tasks:
        number, place, turn = home[task.request.key]
        for need in AFTER[task.request.key]:
            if need in home:
                other = home[need]
                assert other[0] in stage_and_before(found, number) or (other[:2] == (number, place) and other[2] < turn)


def stage_and_before(found: list, number: int) -> set[int]:
    """The stages that have ended when this one starts."""
    return {other for place in found[number].after for other in (place, *stage_and_before(found, place))}


@given(st.integers(1, 12))
def test_what_shares_a_victim_is_parted_only_where_it_does_not_fit(size: int) -> None:
    homes: dict[tuple, set[tuple[int, int]]] = {}
    for number, stage in enumerate(stages(TASKS, AFTER, size)):
        for place, job in enumerate(stage.jobs):
            for task in job:
                homes.setdefault(task.request.victim, set()).add((number, place))
    assert all(len(jobs) == -(-len(SUITE.methods) // size) for jobs in homes.values())


def test_a_whole_suite_is_four_arrays_or_two() -> None:
    ones = stages(TASKS, AFTER, 1)
    # 2 seeds: 2 worlds with a clean arm, 3 attacked cells at 2 rates; 3 methods, of which the first makes the victim.
    assert [(len(stage.jobs), stage.after) for stage in ones] == [(4, ()), (12, (0,)), (8, (0,)), (24, (0, 1))]
    assert [(len(stage.jobs), stage.after) for stage in stages(TASKS, AFTER, 3)] == [(4, ()), (12, (0,))]
    assert [(len(stage.jobs), stage.after) for stage in stages(TASKS, AFTER, 7)] == [(2, ()), (6, (0,))]


def test_an_end_counts_that_was_written_since_unless_it_may_go_on(tmp_path: Path) -> None:
    task, key = Task(PLAN.requests[0], str(tmp_path), "small", "stamp"), PLAN.requests[0].key
    assert ended(task, "") is None
    write(tmp_path, key, Entry("failed", "once"))
    before = mark(tmp_path, key)
    assert ended(task, before) is None
    write(tmp_path, key, Entry("interrupted", "by its job"))
    assert ended(task, before) is None
    write(tmp_path, key, Entry("failed", "once"))
    assert ended(task, before) == Entry("failed", "once")
    assert ended(task, mark(tmp_path, key)) is None


def test_a_node_without_the_working_directory_says_so_of_every_run(tmp_path: Path) -> None:
    tasks = tuple(Task(request, str(tmp_path), "small", "stamp") for request in PLAN.requests[:2])
    with pytest.raises(SystemExit) as left:
        Batch(tasks, {}, {task.request.key: "" for task in tasks}, str(tmp_path / "not-here"))()
    assert left.value.code == 4
    for task in tasks:
        made = entry(tmp_path, task.request.key)
        assert made is not None and (made.status, made.code) == ("failed", 4)
        assert "there is no working directory" in made.reason and "submit from a folder that all nodes share" in made.reason


@pytest.mark.parametrize(
    ("asked", "threads", "timeout", "at_a_time", "minutes"),
    [
        ({}, 1, None, 1, None),
        ({"runs_per_job": 10}, 1, 600, 1, 105),
        ({"runs_per_job": 10, "cpus": 4}, 1, 600, 4, 35),
        ({"runs_per_job": 10, "cpus": 4}, 2, 600, 2, 55),
        ({"runs_per_job": 10, "cpus": 4, "gpus": 1}, 1, 600, 1, 105),
        ({"runs_per_job": 2, "cpus": 8, "time": 7}, 1, 600, 2, 7),
    ],
)
def test_a_job_has_the_time_that_its_runs_may_take(
    asked: dict[str, int], threads: int, timeout: float | None, at_a_time: int, minutes: int | None
) -> None:
    cluster = Cluster(**asked)
    assert (cluster.at_a_time(threads), cluster.minutes(timeout, threads)) == (at_a_time, minutes)
