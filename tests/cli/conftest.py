"""Ways to call the command line: in this process, which is quick, and in a process of its own, which is real."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from small_runs import COMMANDS, FOLDERS, watched_trainings

from testbed.cli import main

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import sys
from testbed.cli import main
code = main(sys.argv[1:])
print("heavy:", *sorted({"torch", "numpy", "sklearn", "pytorch_lightning", "wandb", "matplotlib"} & set(sys.modules)))
sys.exit(code)
"""


class Said(NamedTuple):
    """What a command said and how it ended; `seconds` are those that the processor spent on it."""

    code: int
    out: str
    err: str
    seconds: float = 0.0

    def refusal(self) -> str:
        """The one line that refuses; fails where it was not refused in exactly one line."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        return lines[0].removeprefix("error: ")


@pytest.fixture
def environment() -> dict[str, str]:
    """An environment in which this checkout can be imported and nothing else of the caller's matters."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COMP_", "HYDRA", "TESTBED"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def say(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`say("train", "seed=1")` in this process, in an empty working directory."""

    def said(*words: str) -> Said:
        capsys.readouterr()
        code = main(words)
        return Said(code, *capsys.readouterr())

    return said


@pytest.fixture
def spawn(here: Path, environment: dict[str, str]) -> Callable[..., Said]:
    """The same in a process of its own, whose output ends with the heavy libraries that it imported."""

    def spawned(*words: str, **variables: str) -> Said:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        finished = subprocess.run(
            [sys.executable, "-c", PROBE, *words],
            cwd=here,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Said(finished.returncode, finished.stdout, finished.stderr, seconds)

    return spawned


@pytest.fixture(scope="session")
def small_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of `small_run` lie; nobody changes anything there."""
    return tmp_path_factory.mktemp("small") / "outputs"


@pytest.fixture(scope="session")
def rows_trained_on() -> list[Any]:
    """The batch of rows of every training of `small_run`."""
    return []


@pytest.fixture(scope="session")
def small_run(small_outputs: Path, rows_trained_on: list[Any]) -> Callable[[str], Path]:
    """The folder of a run of a kind of `small_runs.COMMANDS`, made once and kept as it is."""
    made: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in made:
            with watched_trainings(rows_trained_on):
                assert main([*COMMANDS[kind].split(), "logger=none", f"paths.outputs={small_outputs}"]) == 0
            (made[kind],) = small_outputs.glob(FOLDERS[kind])
        return made[kind]

    return run
