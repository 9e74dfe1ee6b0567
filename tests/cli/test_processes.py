"""What becomes of workers when the process that started them is interrupted, and of their runs when they end otherwise."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pebble import ProcessExpired

from testbed.files import digest
from testbed.index import Entry, entry, write
from testbed.launcher import processes
from testbed.launcher.processes import _ended, _how
from testbed.launcher.task import Task
from testbed.launcher.turns import _claim
from testbed.launcher.work import work_if_free
from testbed.lock import lock
from testbed.plan import Request

KILLED = """
import os, signal, sys, time
from pathlib import Path
from testbed.lock import lock
with lock(Path(sys.argv[1])):
    child = os.fork()
    if not child:
        time.sleep(60)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr("testbed.launcher.turns.PATIENCE", 0.1)
    request = Request("train", ("attack=none", "model=small_cnn"), "digits", "none", None, "none", 0)
    return Task(request, str(tmp_path), "group", "stamp", timeout=8.0)


def left(error: BaseException) -> Future[Entry | None]:
    """What a worker leaves that ended so."""
    future: Future[Entry | None] = Future()
    future.set_exception(error)
    return future


def test_a_worker_that_nobody_waits_for_yet_is_ended_too() -> None:
    worker = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(600,))

    def interrupted() -> None:
        with processes.ending():  # interrupted between the start of a process and the note that it was started
            worker.start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    worker.join(10)
    assert worker.exitcode == -15


@pytest.mark.parametrize("error", [TimeoutError(), ProcessExpired("", -9)])
def test_no_end_is_written_of_a_run_that_another_driver_is_making(task: Task, error: OSError) -> None:
    outputs, key = Path(task.outputs), task.request.key
    with lock(_claim(task)):
        assert _ended(task, left(error)) is None and entry(outputs, key) is None
    made = _ended(task, left(error))
    assert made is not None and made.status in ("timeout", "killed") and entry(outputs, key) == made


def test_a_worker_that_was_killed_leaves_children_which_make_no_run(task: Task) -> None:
    words = [sys.executable, "-c", KILLED, str(_claim(task))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        worker.wait(10)
        try:
            made = _ended(task, left(ProcessExpired("", -9)))
        finally:
            os.kill(child, signal.SIGKILL)
    assert made is not None and made.reason == "its process was ended by SIGKILL (out of memory?)"


def test_a_run_that_another_driver_was_faster_to_take_is_looked_at_again(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, key = Path(task.outputs), task.request.key
    (outputs / "run").mkdir()
    (outputs / "run" / "result.json").write_text("{}")
    theirs = Entry("done", folder="run", stamp="stamp", record=digest(outputs / "run" / "result.json"))
    inside, threads, ends = threading.Event(), ThreadPoolExecutor(), list[Entry]()

    def another() -> None:
        with lock(_claim(task)):
            inside.set()
            time.sleep(0.5)
            write(outputs, key, theirs)

    def started(task: Task, _: object) -> Future[Entry | None]:
        threads.submit(another)
        assert inside.wait(10)
        return threads.submit(work_if_free, task)

    monkeypatch.setattr(processes, "AGAIN", 0.1)
    monkeypatch.setattr("testbed.launcher.turns.AGAIN", 0.1)
    monkeypatch.setattr(processes, "prepared", lambda _: None)
    monkeypatch.setattr(processes, "_started", started)
    with threads:
        processes.processes([task], {}, 1, lambda _, made: ends.append(made))
    assert ends == [theirs]


def test_a_full_disk_in_a_worker_is_told_as_such(task: Task) -> None:
    made = _ended(task, left(OSError(errno.ENOSPC, "No space left on device")))
    assert made is not None and (made.status, made.code) == ("failed", 4)
    made = _ended(task, left(ValueError("of testbed's own")))
    assert made is not None and made.code == 1 and "of testbed's own" in made.reason
    made = _ended(replace(task, timeout=None), left(TimeoutError("of a socket")))
    assert made is not None and (made.status, made.code) == ("failed", 1)


def test_every_signal_has_a_name() -> None:
    assert _how(-9) == "its process was ended by SIGKILL (out of memory?)"
    assert _how(3) == "its process ended by itself with exit code 3"
    for number in signal.valid_signals():
        assert _how(-number).removeprefix("its process was ended by ")
