"""A suite on a real Slurm cluster of one node (scripts/slurm_node.sh): jobs killed, queued again, cancelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from small_suite import small_suite

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(900)]
METHODS = "none: [defence=none], repair: [defence=fine_tuning, defence.epochs=1], waits: [defence=waits]"
SUITE = small_suite(METHODS)
MINE = """
import time
from dataclasses import dataclass
from pathlib import Path
from testbed.api import Defence
from testbed.launcher.batch import own_number

@dataclass(frozen=True)
class Waits(Defence):
    def after_training(self, victim, resources):
        with open(f"started-{own_number()}", "a") as stream:
            stream.write("once\\n")
        while not Path("release").exists():
            time.sleep(0.2)
        return victim
"""
WORDS = ["benchmark", "suite=small", "--config-dir", "conf", "logger=none", "launcher=submitit_slurm"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cluster that TESTBED_SLURM names, with nothing in its queue before and after."""
    folder = os.environ.get("TESTBED_SLURM")
    if not folder:
        pytest.fail("TESTBED_SLURM names no cluster: say scripts/slurm_node.sh up DIR, or -m 'not slurm'")
    monkeypatch.setenv("SLURM_CONF", str(Path(folder) / "slurm.conf"))
    assert slurm("squeue", "--noheader") == ""
    yield
    for number in slurm("squeue", "--noheader", "--format=%A").split():
        slurm("scancel", "--signal=KILL", "--full", number)
        slurm("scancel", number)


@pytest.fixture
def place(here: Path, cluster: None, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a suite, one of whose defences waits for a file."""
    (here / "conf" / "suite").mkdir(parents=True)
    (here / "conf" / "defence").mkdir()
    (here / "conf" / "suite" / "small.yaml").write_text(SUITE)
    (here / "conf" / "defence" / "waits.yaml").write_text("_target_: mine.Waits\n")
    (here / "mine.py").write_text(MINE)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return here


class Driver:
    """The command in a process of its own, what it says in a file."""

    def __init__(self, place: Path, *words: str) -> None:
        self.said = place / f"said-{time.monotonic_ns()}"
        with self.said.open("w") as stream:
            command = [sys.executable, "-c", "import sys; from testbed.cli import main; sys.exit(main())", *WORDS, *words]
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)

    def ends(self, seconds: float = 300.0) -> tuple[int, str]:
        """Its exit code, and what it said."""
        try:
            return self.process.wait(seconds), self.said.read_text()
        finally:
            self.process.kill()

    def jobs_said(self) -> str:
        """What the jobs said on their nodes, for whoever reads why a test failed."""
        logs = sorted(self.said.parent.glob("outputs/benchmark/*/slurm/*/*_log.*"))
        return "".join(f"\n[{log.name}]\n{log.read_text()}" for log in logs)


def slurm(*words: str) -> str:
    """What a command of Slurm's says."""
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def wait_for(seen: Callable[[], Any], seconds: float = 300.0) -> Any:
    """What this says as soon as it says something; fails where it never does."""
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, slurm("squeue")
        time.sleep(0.3)
    return found


def held(place: Path, count: int, driver: Driver) -> list[str]:
    """The jobs whose run waits for the file, once there are so many and all others have ended."""
    assert driver.process.poll() is None, driver.said.read_text()
    found = sorted(path.name.removeprefix("started-") for path in place.glob("started-*"))
    return found if len(found) == count and len(slurm("squeue", "--array", "--noheader").splitlines()) == count else []


def ends(place: Path) -> dict[str, int]:
    """How many runs in the index ended how."""
    found = [json.loads(path.read_text())["status"] for path in place.glob("outputs/index/*/*.json")]
    return {status: found.count(status) for status in sorted(set(found))}


def at_once(number: str) -> None:
    """A job that is queued again need not wait for the two minutes in which Slurm cleans its node, but for the cleaning itself.

    What is left of its first start, or is still on its way to it, would end the second one, which has the same number.
    """
    wait_for(lambda: slurm("squeue", "--noheader", "--array", f"--jobs={number}", "--format=%T") == "PENDING", 60)
    wait_for(lambda: not processes_of(number), 60)
    slurm("scontrol", "update", f"jobid={number}", "starttime=now+5")


def processes_of(number: str) -> list[str]:
    """The processes on this node that belong to a job, or to Slurm's own care of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            words, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes().split(b"\0")
            if f"SLURM_JOB_ID={number}".encode() in environment or words.startswith(f"slurmstepd: [{number}.".encode()):
                found.append(process.name)
    return found


def accounts(number: str) -> list[str]:
    """The states that the accounting knows of a job, one each time that it was started."""
    told = slurm("sacct", "--noheader", "--duplicates", "--allocations", "--parsable2", f"--jobs={number}", "--format=State")
    return [line.split()[0] for line in told.splitlines()]


def test_one_job_is_killed_one_is_queued_again_and_the_same_command_fills_the_hole(place: Path) -> None:
    driver = Driver(place)
    lost, again = wait_for(lambda: held(place, 2, driver))
    slurm("scancel", "--signal=KILL", lost)
    slurm("scontrol", "requeue", again)
    at_once(again)
    (place / "release").touch()
    code, said = driver.ends()
    assert code == 1, said + driver.jobs_said()
    (how,) = ends(place).keys() - {"done"}
    assert ends(place) == {"done": 5, how: 1} and how in ("killed", "interrupted"), said  # whether it had the time to say so
    assert said.count("job ") >= 4 and "2 in the array, 2 runs, after" in said
    assert f"  {how}: digits" in said and "waits s0: " in said
    wait_for(lambda: accounts(again) == ["REQUEUED", "COMPLETED"], 30)
    (failed,) = accounts(lost)
    assert failed in ("FAILED", "CANCELLED")
    assert (place / f"started-{again}").read_text().count("once") == 1 + 1

    code, said = Driver(place).ends()
    assert code == 0, said
    assert "6 runs, 5 done already" in said and "1 in the array, 1 runs" in said
    assert ends(place) == {"done": 6}
    code, said = Driver(place).ends(20)
    assert code == 0 and "6 runs, 6 done already" in said and "in the array" not in said


def test_jobs_outlive_their_driver_and_are_not_submitted_twice(place: Path) -> None:
    driver = Driver(place, "cluster.runs_per_job=3", "attack=none")
    (number,) = wait_for(lambda: held(place, 1, driver))
    driver.process.kill()
    driver.process.wait()
    again = Driver(place, "cluster.runs_per_job=3", "attack=none")
    wait_for(lambda: f"waiting or running: {number}" in again.said.read_text(), 30)
    # Slurm tells a job some time before its limit: it records what it made and queues itself again.
    slurm("scancel", "--signal=USR2", number)
    wait_for(lambda: ends(place).get("interrupted"), 60)
    at_once(number)
    (place / "release").touch()
    code, said = again.ends()
    assert code == 0, said + again.jobs_said()
    assert "in the array" not in said and ends(place) == {"done": 3}
    assert (place / f"started-{number}").read_text().count("once") == 2
    assert accounts(number)[0] == "REQUEUED"


def test_ctrl_c_cancels_what_was_submitted(place: Path) -> None:
    driver = Driver(place, "cluster.runs_per_job=2", "attack=none")
    wait_for(lambda: list(place.glob("started-*")))
    driver.process.send_signal(signal.SIGINT)
    code, said = driver.ends()
    assert code == 130, said
    assert "cancelled: " in said and "run the same command again to resume" in said
    assert slurm("squeue", "--noheader") == ""
    assert ends(place) == {"done": 2, "interrupted": 1}
    (result,) = place.glob("outputs/train/none-waits-*/result.json")
    assert json.loads(result.read_text())["status"] == "interrupted"
    assert not list(place.glob("outputs/benchmark/*/slurm/*.json"))
