"""Every way in which a run can end its process: the others stand, nothing claims success, and the rest is done next time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_suite import small_suite

WAYS = '''"""A defence that ends its process in this way, while the variable BROKEN is set."""

import ctypes
import os
import signal
import sys
from dataclasses import dataclass

from testbed.api import Defence

WAYS = {
    "well": lambda: None,
    "exit_0": lambda: sys.exit(0),
    "exit_3": lambda: sys.exit(3),
    "vanish": lambda: os._exit(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "fault": lambda: ctypes.string_at(0),
}

@dataclass(frozen=True)
class Ends(Defence):
    way: str

    def after_training(self, victim, resources):
        if "BROKEN" in os.environ:
            WAYS[self.way]()
        return victim
'''
SUITE = small_suite("none: [defence=none]")
QUICK = ("trainer.max_epochs=1", "trainer.batch_size=256", "model.network.width=2")
CONTAINED, FATAL = ("exit_0", "exit_3", "vanish"), ("kill", "fault")
CODES = {"kill": -9, "fault": -11}


@pytest.fixture
def place(here: Path) -> Path:
    """A working directory with a suite, and a defence for each way to end."""
    for folder in ("suite", "defence"):
        (here / "conf" / folder).mkdir(parents=True)
    (here / "conf" / "suite" / "ways.yaml").write_text(SUITE)
    (here / "ways.py").write_text(WAYS)
    for way in ("well", *CONTAINED, *FATAL):
        (here / "conf" / "defence" / f"{way}.yaml").write_text(f"_target_: ways.Ends\nway: {way}\n")
    return here


def said(environment: dict[str, str], *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "testbed.cli", *words, "--config-dir", "conf", "logger=none"]
    return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=False)


def statuses(place: Path) -> dict[str, str]:
    """How each run ended, by attack and defence."""
    found = {path.parent.name: json.loads(path.read_text())["status"] for path in place.glob("outputs/train/*/result.json")}
    return {name.rpartition("-digits")[0]: status for name, status in found.items()}


@pytest.mark.slow
def test_in_a_sweep_what_can_be_contained_is_and_nothing_else_claims_success(place: Path, environment: dict[str, str]) -> None:
    words = ("train", "-m", f"defence={','.join((*CONTAINED, 'well'))}", *QUICK)
    first = said(environment, *words, BROKEN="yes")
    assert first.returncode == 1 and "4 runs: 1 done, 3 not" in first.stderr, first.stderr
    assert statuses(place) == {**{f"badnets-{way}": "failed" for way in CONTAINED}, "badnets-well": "done"}
    for way, code in (("exit_0", 0), ("exit_3", 3), ("vanish", 0)):
        assert re.search(rf"defence ways\.Ends \(ways\.py, line \d+\): SystemExit: {code}", first.stdout), way
    for way in FATAL:
        dead = said(environment, "train", "-m", f"defence=well,{way},exit_0", *QUICK, BROKEN="yes")
        assert dead.returncode == CODES[way], dead.stderr
    rest = said(environment, "train", "-m", f"defence={','.join(('well', *CONTAINED, *FATAL))}", *QUICK)
    assert rest.returncode == 0 and "6 runs: 6 done, 0 not" in rest.stderr, rest.stderr
    assert rest.stdout.count("already done, nothing was run") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "ways"), [("processes", (*CONTAINED, *FATAL)), ("basic", CONTAINED)])
def test_in_a_grid_each_costs_its_own_runs(
    launcher: str, ways: tuple[str, ...], place: Path, environment: dict[str, str]
) -> None:
    words = ("benchmark", "suite=ways", f"defence={','.join((*ways, 'well'))}", f"launcher={launcher}", "jobs=2")
    first = said(environment, *words, BROKEN="yes")
    assert first.returncode == 1, first.stderr
    bad = re.findall(r"^  (\w+): digits (\w+) (\w+) s0: ", first.stderr, re.MULTILINE)
    assert {(arm, way) for _, arm, way in bad} == {(arm, way) for arm in ("none", "badnets") for way in ways}
    assert "4 done" in first.stdout and "Traceback" not in first.stderr
    logs = [Path(name).read_text() for name in re.findall(r"\(log: (.+)\)$", first.stderr, re.MULTILINE)]
    assert len(logs) == (2 * len(ways) if launcher == "processes" else 0)
    assert sum("Segmentation fault" in log and "ways.py" in log for log in logs) == 2 * ("fault" in ways)
    rest = said(environment, *words)
    assert rest.returncode == 0 and f"{2 * len(ways) + 4} runs, 4 done already" in rest.stdout, rest.stderr


@pytest.mark.slow
def test_a_grid_in_one_process_that_was_killed_goes_on(place: Path, environment: dict[str, str]) -> None:
    words = ("benchmark", "suite=ways", "defence=kill,well", "launcher=basic")
    assert said(environment, *words, BROKEN="yes").returncode == -9
    rest = said(environment, *words)
    assert rest.returncode == 0 and "6 done" in rest.stdout, rest.stderr
