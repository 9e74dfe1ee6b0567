"""Ctrl-C and SIGTERM in the middle of training: the sweep ends, the run is recorded as interrupted, and can be resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LONG = ["train", "-m", "attack=badnets", "trainer.max_epochs=2000", "seed=0,1", "logger=none"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_ends_the_sweep(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "testbed.cli", *LONG, f"paths.outputs={tmp_path}"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("train/.badnets*/manifest.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)  # the manifest is written just before training
    time.sleep(5)  # Lightning is imported, and trains
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and "run the same command again to resume" in said and "[2]" not in said
    (result,) = tmp_path.glob("train/badnets*/result.json")
    assert json.loads(result.read_text())["status"] == "interrupted"
