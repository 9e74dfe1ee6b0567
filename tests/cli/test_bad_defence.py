"""A user's defence that fails costs its own cells alone, and is named; everybody else's results stand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from testbed.cli import main

pytestmark = pytest.mark.timeout(900)  # the first test of a fixture waits for all its runs
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
QUICK = ("trainer.max_epochs=1", "model.network.width=2", "data.reserve_per_class=2", "logger=none")

SAID = {
    "Raises": r"\(bad.py, line \d+\): ZeroDivisionError: integer division or modulo by zero",
    "Exits": r"\(bad.py, line \d+\): SystemExit: enough",
    "Forgets": r"\(bad.py\): at_inference gave NoneType, not a Victim; end it with `return victim`",
    "WrongShape": r"\(bad.py\): after_training's model gives logits of shape \(8, 3\) to 8 inputs, not \(8, 10\)",
    "NotANumber": r"\(bad.py\): after_training gave a model whose \S+ is not finite; ",
    "WrongType": r"\(bad.py\): before_training gave rows of type torch.float64, where the data have torch.uint8",
    "ChangesModel": r"\(bad.py\): after_training changed the model that it is given; work on a copy: copy.deepcopy\(victim\)",
    "ChangesRows": r"\(bad.py\): before_training changed the rows of resources.train; work on a copy",
    "SeedsTorch": r"\(bad.py\): after_training drew from or seeded the global generator of torch; draw from a generator of its",
    "SeedsNumPy": r"\(bad.py\): after_training drew from or seeded the global generator of NumPy; draw from a generator of its",
    "SeedsPython": r"\(bad.py\): after_training drew from or seeded the global generator of Python; draw from a generator of",
    "ReadsFlags": r"\(bad.py, line \d+\): AttributeError: .*; which rows are poisoned is told to nobody but controls",
    "ReadsRows": r"\(bad.py, line \d+\): AttributeError: .*; which rows are poisoned is told to nobody but controls",
    "AsksForFlags": r"\(bad.py\): asks which rows are poisoned \(oracle = True\); say oracle in the name of its class",
    "Breaks": r"\(bad.py, line \d+\): RuntimeError: too many at once",
}
"""What the reason of a failed run says after the class's name, by class."""

CHECKED = {
    "Raises": r"it does its work without an error: ZeroDivisionError: integer division or modulo by zero",
    "Exits": r"it does its work without an error: SystemExit: enough",
    "Forgets": r"each stage returns what the next one reads: at_inference gave NoneType, not a Victim; end it with",
    "WrongShape": r"each stage returns .*: after_training's model gives logits of shape \(40, 3\) to 40 inputs, not \(40, 10\)",
    "NotANumber": r"each stage returns what the next one reads: after_training gave a model whose \S+ is not finite; look for",
    "WrongType": r"it does its work .*: before_training gave rows of type torch.float64, where the data have torch.uint8",
    "ChangesModel": r"it leaves the model .*: changed: weights; work on a copy: copy.deepcopy\(victim\)",
    "ChangesRows": r"it leaves the rows .*: changed: training rows; work on a copy, such as batch.inputs.clone\(\)",
    "SeedsTorch": r"it leaves the global random .*: changed: torch; draw from a generator of its own: ",
    "SeedsNumPy": r"it leaves the global random .*: changed: NumPy; draw from a generator of its own: ",
    "SeedsPython": r"it leaves the global random .*: changed: Python; draw from a generator of its own: ",
    "ReadsFlags": r"it does its work .*: AttributeError: .*; which rows are poisoned is told to nobody but controls",
    "ReadsRows": r"it sees rows only.*: it fails on an anonymous copy of the rows, which is all that a run gives it: Attribute",
    "AsksForFlags": r"it is told the answers only if .*: asksforflags asks which rows are poisoned; call it oracle",
    "Stranger": r"it is a testbed.api.Defence: Stranger is not derived from it",
}
"""What `testbed check` says of each, after the mark."""


class Grid(NamedTuple):
    """A working directory with bad.py, and what a benchmark of its defences said."""

    folder: Path
    code: int
    out: str
    err: str

    def runs(self, method: str) -> list[tuple[Path, dict[str, Any]]]:
        """The run folders of a method, and what became of each run."""
        found = sorted((self.folder / "outputs" / "train").glob(f"*-{method.lower()}-digits-s0-*"))
        return [(folder, json.loads((folder / "result.json").read_text())) for folder in found]


Benchmark = Callable[..., Grid]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with bad.py and a configuration of each of its defences."""
    folder = tmp_path_factory.mktemp("there")
    shutil.copy(HERE / "bad.py", folder)
    options = folder / "conf" / "defence"
    options.mkdir(parents=True)
    for name in {*SAID, *CHECKED, "Dies", "Hangs"}:
        (options / f"{name.lower()}.yaml").write_text(f"# {name}.\n_target_: bad.{name}\n")
    return folder


def _said(folder: Path, *words: str) -> Grid:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "testbed.cli", *words, "--config-dir", "conf"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return Grid(folder, done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def swept(there: Path) -> Grid:
    """A sweep over all of them between two that are shipped."""
    names = ",".join(["none", *(name.lower() for name in SAID), "fine_tuning"])
    return _said(there, "train", "-m", f"defence={names}", *QUICK)


def test_the_others_results_stand(swept: Grid) -> None:
    assert swept.code == 1, swept.err
    for name in ("none", "fine_tuning"):
        assert [result["status"] for _, result in swept.runs(name)] == ["done"]


@pytest.mark.parametrize("name", SAID)
def test_its_own_cell_fails_with_the_plug_in_named(name: str, swept: Grid) -> None:
    ((folder, result),) = swept.runs(name)
    assert result["status"] == "failed" and "\n" not in result["reason"] and not result["measures"]
    assert re.match(rf"defence bad\.{name} {SAID[name]}", result["reason"]), result["reason"]
    assert "Traceback" in (folder / "error.txt").read_text()
    assert f"defence bad.{name} (bad.py" in swept.out, "it is said where everybody reads it"


@pytest.fixture(scope="module")
def grid(swept: Grid) -> Grid:
    """A suite with one that fails, one that ends its process and one that never ends; the victims are there already."""
    names = "none,raises,dies,hangs"
    return _said(swept.folder, "benchmark", "suite=demo", "seeds=1", f"defence={names}", "timeout=8", *QUICK)


def test_a_suite_is_filled_around_them(grid: Grid) -> None:
    assert grid.code == 1 and "2 done, 2 failed, 2 killed, 2 timeout" in grid.out, grid
    assert [result["status"] for _, result in grid.runs("none")] == ["done", "done"], "under the attack, and clean"
    assert len(re.findall(r"failed: .*: defence bad\.Raises \(bad\.py, line \d+\): ZeroDivisionError", grid.err)) == 2, grid.err


def test_a_process_that_dies_is_named_by_its_cell(grid: Grid) -> None:
    assert len(re.findall(r"killed: digits (?:none|badnets) dies s0: .*exit code 7", grid.err)) == 2, grid.err


def test_what_hangs_is_ended_and_says_where_it_was(grid: Grid) -> None:
    for folder, result in grid.runs("hangs"):
        assert result["status"] == "timeout" and "timeout=8" in result["reason"]
        assert "bad.py" in (folder / "error.txt").read_text()


@pytest.fixture(scope="module")
def checked(there: Path) -> Iterator[dict[str, list[str]]]:
    """What `testbed check` says of each, in one command."""
    said = _said(there, "check", "-m", f"defence={','.join(name.lower() for name in CHECKED)}")
    assert said.code == 1, said.err
    parts = re.split(r"^defence=(\S+) .*$", said.out, flags=re.MULTILINE)
    yield {name: lines.splitlines() for name, lines in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("name", CHECKED)
def test_check_says_in_one_sentence_what_it_breaks(name: str, checked: dict[str, list[str]]) -> None:
    lines = checked[name.lower()]
    broken = [line.strip().removeprefix("✗ ") for line in lines if "✗" in line]
    assert any(re.match(CHECKED[name], line) for line in broken), lines


def test_a_limit_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "defence=none", "limit=0"]) == 2
    assert "limit=0.0: must be above 0; null waits for ever" in capsys.readouterr().err


def test_check_does_not_wait_for_ever(there: Path) -> None:
    said = _said(there, "check", "defence=hangs", "limit=2")
    assert said.code == 1
    sentence = (
        "it does its work without an error: it was still at work after 2 s; look for a loop without an end, or say limit="
    )
    assert sentence in said.out, said
