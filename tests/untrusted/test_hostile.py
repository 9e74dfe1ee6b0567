"""The corpus of hostile files through the reader: no code run, nothing written, no connection; and the watch sees."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARMED = (
    "protocol_2.pt",
    "inst.pkl.pt",
    "tcp.pt",
    "udp.pt",
    "before.pt",
    "twice.pt",
    "adapter_pickle",
    "object.npy",
    "getattr_chain.pt",
)
QUICK = (
    *ARMED,
    *("protocol_0.pt", "protocol_5.pt", "model.safetensors", "joblib.pt", "storage_type.pt", "hub.pt", "meta.pt"),
    *("persistent_line.pt", "two_pickles.pt", "big_number.pt", "zip_bomb.pt", "overlap.pt", "slip.pt", "misnamed.pt"),
    *(
        "comment.pt",
        "torchscript.pt",
        "sparse.pt",
        "quantised.pt",
        "archive_behind.safetensors",
        "twice.safetensors",
        "wrap.safetensors",
    ),
    *("escape.safetensors", "link.safetensors", "zero.pt", "loop.pt", "pipe.pt", "socket.pt", "config.yaml", "adapter_mapping"),
    *("adapter_link", "adapter_template"),
)
SUMMARY = re.compile(
    r"(\d+) files: code run (\d+), written outside (\d+), connections (\d+), not as expected (\d+); "
    r"worst ([\d.]+) s .* (\d+) MiB"
)


def _run(folder: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "scripts" / "hostile_files.py"), str(folder), *options]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    return found.returncode, found.stdout + found.stderr


def _numbers(said: str) -> Sequence[float]:
    found = SUMMARY.search(said)
    assert found is not None, said
    return [float(number) for number in found.groups()]


def test_hostile_files_do_nothing_here_and_something_in_careless_hands(tmp_path: Path) -> None:
    code, said = _run(tmp_path / "new", "--try", "--control", "--only", ",".join(QUICK))
    assert code == 0, said
    files, *harm, seconds, memory = _numbers(said)
    assert files >= 45 and harm == [0, 0, 0, 0], said
    assert seconds < 5 and memory < 1024


@pytest.mark.slow
def test_the_whole_corpus(tmp_path: Path) -> None:
    code, said = _run(tmp_path / "new", "--try", "--control")
    files, *harm, seconds, memory = _numbers(said)
    print(said.splitlines()[-2], said.splitlines()[-1], sep="\n")
    assert files >= 140 and harm == [0, 0, 0, 0] and seconds < 5 and memory < 1024, said
    assert code == 0, said
