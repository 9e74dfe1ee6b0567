"""Drivers that share a folder: a run is made by one of them, and none of them stands idle for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.files import digest
from testbed.index import Entry, write
from testbed.launcher.task import Task
from testbed.launcher.turns import Queue, _claim, finished, turn
from testbed.launcher.work import work, work_if_free
from testbed.lock import lock
from testbed.plan import Request


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    words = ("attack=none", "model=small_cnn")
    return [
        Task(Request("train", (*words, f"seed={seed}"), "digits", "none", None, "none", seed), str(tmp_path), "group", "stamp")
        for seed in range(3)
    ]


def test_what_another_driver_makes_is_passed_over_and_looked_at_again(
    tasks: list[Task], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = tasks
    after = {third.request.key: (first.request.key,)}
    queue = Queue(list(tasks), after)
    with lock(_claim(first)):
        assert queue.next([]) == second
        assert queue.next([second]) is None, "the first is being made, the third comes after it"
    assert f"{first.request.label}: process " in capsys.readouterr().out
    assert queue.next([second]) is None, "it is looked at again only after a while"
    monkeypatch.setattr("testbed.launcher.turns.time.monotonic", lambda: 1e9)
    assert queue.next([second]) == first and queue.next([first]) is None and queue.next([]) == third


def test_a_worker_does_not_wait_for_another_driver_which_may_take_longer_than_its_time_limit(
    tasks: list[Task], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("testbed.launcher.turns.PATIENCE", 0.1)
    first, second, _ = tasks
    queue = Queue([second], {})
    with lock(_claim(first)):
        assert work_if_free(first) is None and not first.log.exists()
        queue.held_by_another(first)
        assert queue.next([]) == second and queue.next([]) is None
    assert f"{first.request.label}: process " in capsys.readouterr().out
    monkeypatch.setattr("testbed.launcher.turns.time.monotonic", lambda: 1e9)
    assert queue.next([]) == first


def test_who_waits_says_for_which_run(tasks: list[Task], capsys: pytest.CaptureFixture[str]) -> None:
    inside = threading.Event()

    def another() -> None:
        with lock(_claim(tasks[0])):
            inside.set()
            time.sleep(0.5)

    thread = threading.Thread(target=another)
    thread.start()
    assert inside.wait(10)
    with turn(tasks[0]):
        thread.join()
    said = capsys.readouterr().out
    assert said.startswith(f"{tasks[0].request.label}: waiting for process ") and tasks[0].request.key not in said


def test_what_another_driver_has_made_is_not_made_again(tasks: list[Task], tmp_path: Path) -> None:
    (tmp_path / "train" / "run").mkdir(parents=True)
    (tmp_path / "train" / "run" / "result.json").write_text("{}")
    made = Entry("done", folder="train/run", stamp="stamp", record=digest(tmp_path / "train" / "run" / "result.json"))
    write(tmp_path, tasks[0].request.key, made)
    write(tmp_path, tasks[1].request.key, Entry("failed", folder="train/run", stamp="stamp"))
    assert work(tasks[0]) == made and not tasks[0].log.exists()
    assert [finished(task) for task in tasks] == [made, None, None]


def test_turns_exclude_one_another(tasks: list[Task], say: Callable[..., object]) -> None:
    queue = Queue(tasks[:1], {})
    with turn(tasks[0]):
        assert queue.next([]) is None
    assert Queue(tasks[:1], {}).next([]) == tasks[0]
