"""One process at a time: kernel locks, leases where there are none, and how it is found out which."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from testbed import lock as locks
from testbed.files import committed
from testbed.lock import attempted, holder, kind_of, lock
from testbed.words import Refused, Terminated

COUNT = """
import sys, time
from pathlib import Path
from testbed import lock as locks
from testbed.files import committed
locks.LEASE = 3.0
kind, place = sys.argv[1:]
if kind == "lease":
    locks.kind_of = lambda folder: "lease"
for turn in range(20):
    with locks.lock(Path(place) / "run", lambda said: None):
        number = int((Path(place) / "count").read_text())
        time.sleep(0.002)
        (Path(place) / "count").write_text(str(number + 1))
"""


@pytest.mark.parametrize("kind", ["kernel", "lease"])
def test_processes_take_turns(kind: str, tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    workers = [subprocess.Popen([sys.executable, "-c", COUNT, kind, str(tmp_path)]) for _ in range(3)]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "60"
    assert (tmp_path / ".locks" / "kind").read_text() == kind


@pytest.mark.parametrize("kind", ["kernel", "lease"])
def test_a_lock_goes_with_the_process_that_held_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LEASE", 1.5)
    monkeypatch.setattr(locks, "kind_of", lambda folder: kind)
    hold = f"""
import time
from pathlib import Path
from testbed import lock as locks
from testbed.files import committed
locks.LEASE = 1.5
locks.kind_of = lambda folder: {kind!r}
with locks.lock(Path({str(tmp_path)!r}) / "run"):
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with attempted(tmp_path / "run") as mine:
        assert not mine
    time.sleep(2.5)  # the heartbeat keeps a lease alive
    with attempted(tmp_path / "run") as mine:
        assert not mine
    assert holder(tmp_path / "run") == f"process {process.pid} on {os.uname().nodename}"
    process.kill()
    process.wait()
    process.stdout.close()
    said: list[str] = []
    with lock(tmp_path / "run", said.append), attempted(tmp_path / "other") as mine:
        assert mine
    assert all("waiting for process" in line for line in said)


def test_the_kind_is_found_by_trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind_of(tmp_path) == "kernel" and list(tmp_path.iterdir()) == []

    def tried(flock: Any, *options: str) -> str:
        locks._tried.cache_clear()
        monkeypatch.setattr(locks, "mount_options", lambda folder: options)
        monkeypatch.setattr(fcntl, "flock", flock)
        return kind_of(tmp_path)

    def none(*_: Any) -> None:
        raise OSError(37, "No locks available")

    real = fcntl.flock
    assert tried(none) == "lease", "there are no locks"
    assert tried(lambda *_: None) == "lease", "they exclude nobody"
    assert tried(real, "rw", "local_lock=flock") == "lease", "they hold on this machine alone"
    assert tried(real, "rw", "local_lock=none") == "kernel"
    locks._tried.cache_clear()


def test_the_options_of_a_mount_are_read() -> None:
    assert {"rw", "ro"} & set(locks.mount_options(Path("/proc"))) and locks.mount_options(Path("/proc/self"))


def test_the_first_decides_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock(tmp_path / "run"):
        pass
    monkeypatch.setattr(locks, "kind_of", lambda folder: "lease")
    with pytest.raises(Refused, match="kernel locks") as refused, lock(tmp_path / "run"):
        pass
    assert refused.value.code == 4
    (tmp_path / ".locks" / "kind").write_text("lease")
    monkeypatch.setattr(locks, "kind_of", lambda folder: "kernel")
    with lock(tmp_path / "leased"):
        assert (tmp_path / ".locks" / "leased.lock").exists()


def test_whoever_loses_a_lease_is_told_to_end(tmp_path: Path) -> None:
    hold = f"""
import time
from pathlib import Path
from testbed import lock as locks
from testbed.files import committed
locks.LEASE = 0.9
locks.kind_of = lambda folder: "lease"
with locks.lock(Path({str(tmp_path)!r}) / "run"):
    (Path({str(tmp_path)!r}) / ".locks" / "run.lock").unlink()
    time.sleep(60)
"""
    ended = subprocess.run([sys.executable, "-c", hold], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == -signal.SIGTERM and "the lease was lost (marker-missing)" in ended.stderr


def test_whoever_lost_a_lease_commits_nothing_and_leaves_others_in_peace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "kind_of", lambda folder: "lease")
    with lock(tmp_path / "run") as held:
        held()
        theirs = tmp_path / ".run.17.abcdef01"  # the new holder's, at work
        theirs.mkdir()
        marker = tmp_path / ".locks" / "run.lock"
        marker.write_text("taken over while this process stood still")
        with pytest.raises(Terminated, match="lease of run was lost"), committed(tmp_path / "run", held):
            raise AssertionError
        assert theirs.exists()
    theirs.rmdir()
    marker.unlink(missing_ok=True)
    with pytest.raises(Terminated), lock(tmp_path / "run") as held, committed(tmp_path / "run", held):
        marker.unlink()
    assert not (tmp_path / "run").exists()
