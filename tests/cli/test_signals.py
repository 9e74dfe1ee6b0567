"""Ctrl-C and SIGTERM in the middle of training: the sweep ends, the run is recorded as interrupted, and can be resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_ends_the_sweep(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCHEDULE)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *LONG], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (tmp_path / "training").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.send_signal(sent)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code and "run the same command again to resume" in said and "[2]" not in said
    (result,) = tmp_path.glob("outputs/train/badnets*/result.json")
    assert json.loads(result.read_text())["status"] == "interrupted"
