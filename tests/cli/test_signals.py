"""Signals in the middle of real commands: they end with the right code and in time, leave nothing behind, and are resumed."""

from __future__ import annotations

import importlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SCHEDULE = """
from pathlib import Path
steps = 0
def schedule(done):
    global steps
    steps += 1
    if steps == 50:  # the first few calls only check the schedule
        Path("training").touch()
    return 1.0
"""
# A job in the background inherits that Ctrl-C is ignored, and this test may be one.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from testbed.cli import main
sys.exit(main())
"""
LONG = ["train", "-m", "trainer.max_epochs=100000", "trainer.schedule._target_=mine.schedule", "seed=0,1", "logger=none"]


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script that interrupts real commands."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("signals")
    del sys.modules["signals"]


def test_sigterm_in_training_ends_the_sweep_and_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCHEDULE)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *LONG], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (tmp_path / "training").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143 and "[2]" not in said
    assert "ended by SIGTERM: 0/2 done; run the same command again to resume" in said
    (result,) = tmp_path.glob("outputs/train/badnets*/result.json")
    assert json.loads(result.read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_commands_are_interrupted_at_random_moments_and_resumed(signals: ModuleType, tmp_path: Path) -> None:
    seed = int(time.time())
    found = signals.tried("train", 2, random.Random(seed), tmp_path, ("SIGINT", "SIGINT twice"))
    print(f"seed {seed}\n{signals.table('train', found)}")
    assert sum(kind.times for kind in found.values()) == 2
    assert [line for kind in found.values() for line in kind.wrong] == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("verb", ["benchmark", "train", "sweep"])
def test_fifty_moments(verb: str, signals: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(time.time())
    found = signals.tried(verb, 50, random.Random(seed), tmp_path)
    with capsys.disabled():
        print(f"\nseed {seed}\n{signals.table(verb, found)}")
    assert sum(kind.times for kind in found.values()) == 50
    assert [line for kind in found.values() for line in kind.wrong] == []
