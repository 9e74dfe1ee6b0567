"""What the driver of a grid on a cluster leaves when it ends early, and what the next one finds; Slurm is scripts here."""

from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from testbed.index import Entry
from testbed.launcher.cluster import Cluster
from testbed.launcher.submitit_slurm import submitit_slurm
from testbed.launcher.submitted import Submission
from testbed.launcher.task import Task
from testbed.launcher.turns import turn
from testbed.launcher.waiting import Waiting
from testbed.plan import Request
from testbed.words import Refused, Terminated

STUBS = {
    "scontrol": "echo ClusterName = stub\necho MaxArraySize = 100\n",
    "srun": "",
    "scancel": 'echo "$@" > cancelled\n',
    "sbatch": """
[ ! -e full ] || [ ! -e submitted ] || { echo "sbatch: error: full" >&2; exit 1; }
grep '^#SBATCH' "$1" >> submitted
for place in $(cat places); do mkdir -p "${place%/*}"; cp entry "$place"; done
echo "Submitted batch job $(($(cat number) + 1))" | tee last; tr -dc 0-9 < last > number
""",
    "squeue": """
[ -e known ] && [ ! -e cancelled ] || exit 0
for word; do case $word in --name=*) names=${word#--name=};; esac; done
IFS=,
for name in $names; do echo "$name|0|101_0|RUNNING|"; done
""",
}


@pytest.fixture
def slurm(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands that say what Slurm's would: jobs that were submitted run until they are cancelled, once `known` is there."""
    (here / "bin").mkdir()
    (here / "known").touch()
    (here / "number").write_text("100")
    (here / "places").touch()
    for command, script in STUBS.items():
        (here / "bin" / command).write_text(f"#!/bin/sh\ncd {here}\n{script}")
        (here / "bin" / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(here / "bin"), prepend=os.pathsep)
    monkeypatch.setattr("testbed.launcher.waiting.SHORTEST", 0.1)
    return here


@pytest.fixture
def tasks(slurm: Path) -> list[Task]:
    """Two runs, the second of which comes after the first."""
    words, more = ("attack=none", "model=small_cnn"), ("digits", "none", None, "none")
    return [Task(Request("train", (*words, f"seed={seed}"), *more, seed), "outputs", "small", "stamp") for seed in range(2)]


def ended_by(error: BaseException, tasks: list[Task], after: dict[str, tuple[str, ...]]) -> None:
    """The first run has ended as soon as something is submitted, and this is raised as its end is told."""

    def said(*_: object) -> None:
        raise error

    key = tasks[0].request.key
    Path("places").write_text(f"outputs/index/{key[:2]}/{key}.json")
    Path("entry").write_text(json.dumps(asdict(Entry("failed", "of its own"))))
    with pytest.raises(type(error)):
        submitit_slurm(tasks, after, 1, said, cluster=Cluster(runs_per_job=2))


@pytest.mark.parametrize(
    ("error", "cancelled"),
    [(BrokenPipeError(32, ""), False), (OSError(28, ""), False), (Terminated("SIGTERM"), False), (KeyboardInterrupt(), True)],
)
def test_only_ctrl_c_cancels_jobs_that_are_waited_for(
    slurm: Path, tasks: list[Task], error: BaseException, cancelled: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    ended_by(error, tasks, {})
    assert (slurm / "cancelled").exists() == cancelled
    assert ("the same command waits for them" in capsys.readouterr().err) != cancelled
    assert bool(list(slurm.glob("outputs/benchmark/small/slurm/*.json"))) != cancelled


def test_what_slurm_took_before_it_refused_the_rest_is_cancelled(slurm: Path, tasks: list[Task]) -> None:
    (slurm / "full").touch()
    with pytest.raises(Refused, match="sbatch takes no such job"):
        submitit_slurm(tasks, {tasks[1].request.key: (tasks[0].request.key,)}, 1, print, cluster=Cluster())
    assert (slurm / "cancelled").read_text() == "101\n"


def test_a_submission_on_its_way_is_waited_for_and_what_needs_it_comes_after_it(
    slurm: Path, tasks: list[Task], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tasks
    home = slurm / "outputs" / "benchmark" / "small" / "slurm"
    home.mkdir(parents=True)
    own = Submission("testbed-1", "stub", ({first.request.key: ""},))
    own.note(home)
    (slurm / "known").unlink()
    timer = threading.Timer(0.5, (slurm / "known").touch)
    timer.start()

    (slurm / "number").write_text("101")
    ended_by(Terminated("SIGTERM"), tasks, {second.request.key: (first.request.key,)})
    timer.join()
    told = capsys.readouterr().out
    assert "testbed-1 was being submitted; waiting" in told and "1 runs were submitted before" in told
    assert "job 102: 1 in the array, 1 runs, after 101" in told
    assert "--dependency=afterany:101" in (slurm / "submitted").read_text()


def test_a_submission_that_never_came_is_made_again(slurm: Path, tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.launcher.waiting.ON_ITS_WAY", 0.3)
    own, known = Submission("testbed-1", "stub", ({tasks[0].request.key: ""},)), Waiting(slurm, print)
    own.note(slurm)
    (slurm / "known").unlink()
    assert own.age(slurm) < 0.3
    known.adopt(tasks, [own])
    assert not known.open and own.age(slurm) == math.inf


def test_no_end_of_a_lost_job_is_written_over_what_another_driver_is_making(
    slurm: Path, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("testbed.launcher.turns.PATIENCE", 0.1)
    own, known = Submission("testbed-1", "stub", ({tasks[0].request.key: ""},)), Waiting(slurm, print)
    known.add(own, [tasks[:1]])
    (awaited,) = known.open.values()
    with turn(tasks[0]):
        assert known._end_of(awaited) is None
    made = known._end_of(awaited)
    assert made is not None and made.status == "killed"
