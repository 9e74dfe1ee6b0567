"""What breaks the testbed sees what it should: a disk that was full too early, processes that ended by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from random import Random
from types import ModuleType

import psutil
import pytest

Chaos = Callable[[str], ModuleType]
HOLDS = """
import os, time
held = bytearray(b"1") * 40_000_000
child = os.fork()
if child: print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def negligent() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child that has ended, which it never notices."""
    process = subprocess.Popen(["sh", "-c", "sleep 0.01 & exec sleep 60"])
    while [child.status() for child in psutil.Process(process.pid).children()] != [psutil.STATUS_ZOMBIE]:
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


def test_a_disk_that_was_full_before_anything_was_done_shows_nothing(chaos: Chaos) -> None:
    full = chaos("full")
    assert [full.in_the_middle(finished, 8) for finished in (0, 1, 7, 8)] == [False, True, True, False]


def test_what_had_ended_by_itself_is_not_counted_as_killed(chaos: Chaos, negligent: subprocess.Popen[bytes]) -> None:
    kills = chaos("kills")
    (zombie,) = psutil.Process(negligent.pid).children()
    assert zombie.pid not in kills._forked(os.getpid())
    assert not kills._killed(os.kill, zombie.pid)
    assert kills._killed(os.kill, negligent.pid)


def test_a_driver_that_had_ended_by_itself_is_not_counted_as_killed(chaos: Chaos, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = chaos("kills")
    monkeypatch.setattr(kills, "living", lambda process: True)  # it ends between the look and the kill
    driver = subprocess.Popen(["true"], start_new_session=True)
    while psutil.Process(driver.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    monkey = kills.Monkey(None, "outputs", (None, None), Random(0), {0: driver})
    monkeypatch.setattr(kills.Monkey, "_workers", lambda self: {})
    monkey.kill(False)
    assert driver.returncode == 0
    assert monkey.killed.total() == 0


def test_a_child_of_the_driver_that_is_never_reaped_is_found(
    chaos: Chaos, negligent: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    soak, found = chaos("soak"), chaos("verdict").Found({})
    monkeypatch.setattr(soak, "REAPED", 0.1)
    watch = soak.Watch({"driver": soak.Series()})
    watch.look(negligent.pid, 0)
    assert watch.zombies == [], "it may have ended just now"
    time.sleep(0.15)
    watch.look(negligent.pid, 0)
    (zombie,) = psutil.Process(negligent.pid).children()
    assert watch.zombies == [zombie.pid]
    soak.judge(found, watch, 1, 1)
    assert str(zombie.pid) in found.broken["processes that had ended and were not reaped for 0.1 s: 0"]


def test_a_process_that_was_never_seen_is_no_proof(chaos: Chaos) -> None:
    soak, found = chaos("soak"), chaos("verdict").Found({})
    same = soak.Series([0, 30, 80], [1, 1, 1], [1, 1, 1], [1, 1, 1])
    soak.judge(found, soak.Watch({"driver": same, soak.SERVER: soak.Series()}), 100, 1)
    assert "the server of forks was seen" in found.broken
    assert not any("driver" in promise for promise in found.broken)


def test_memory_counts_whether_or_not_a_fork_shares_it(chaos: Chaos) -> None:
    soak = chaos("soak")
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert psutil.Process(process.pid).memory_full_info().uss < 40_000_000 < soak._own(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
