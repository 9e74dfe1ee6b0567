"""What docs/reliability.md promises, by breaking it: short here, and at full length behind the mark `slow`.

Each program prints its figures and the promises that it checked; `pytest -s` shows them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHORT = {
    "kills": "kills --count 4 --runs 8",
    "faulty": "faulty --runs 12 --faults raise,vanish,segfault --timeout 120",
    "files": "writes --scenes file,index,plan --errors ENOSPC,EIO,EACCES",
    "run": "writes --scenes run --errors ENOSPC --every 3",
    "again": "again --runs 100 --repeats 1",
}
LONG = {
    "kills": "kills",
    "trainings": "trainings",
    "faulty": "faulty",
    "writes": "writes",
    "full": "full",
    "full_where_nothing_can_be_mounted": "full --mount none",
    "again": "again",
    "soak": "soak",
    "soak_one_process": "soak --launcher basic",
    "drivers": "drivers",
}


def broken(words: str, code: int = 0) -> str:
    """What a program says, once it has kept every promise (or, with code 1, has found one that was not kept)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "scripts" / "chaos"), *words.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == code, done.stdout + done.stderr
    assert "kept" in done.stdout
    return done.stdout


@pytest.mark.parametrize("words", SHORT.values(), ids=SHORT)
def test_it_holds(words: str) -> None:
    broken(words)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("words", LONG.values(), ids=LONG)
def test_it_holds_at_full_length(words: str) -> None:
    broken(words)


@pytest.mark.slow
def test_a_disk_that_takes_not_one_run_is_no_proof() -> None:
    assert "BROKEN  the disk was full in the middle: 0" in broken("full --runs 4 --mount none --limit 1000", 1)
