"""The tutorial's own commands, in order, in a fresh folder, by the real program: they work, and say what is printed there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
FENCE = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHRUNK = {"seeds=3": "seeds=1 trainer.max_epochs=1 model.network.width=4"}
"""What is said instead where it would take minutes, and the rest of the tutorial is to be tried all the same."""

LONGEST = "testbed train -m attack=adaptive_trigger"
"""How the command begins that is left out then."""


class Block(NamedTuple):
    """A fenced part of the tutorial: commands (`sh`), what they say (`text`), or a file of this name."""

    kind: str
    name: str
    body: str


class Done(NamedTuple):
    """A command of the tutorial, how it ended, how it should have, and what it said."""

    command: str
    code: int
    wanted: int
    said: str


@dataclass
class Reader:
    """Somebody who does what the tutorial says: in a folder, with these programs."""

    folder: Path
    environment: dict[str, str]
    shrunk: bool

    def does(self, line: str) -> Done:
        """One line of commands, as a shell would take it; `# exit code 1` behind it says how it ends."""
        command, _, remark = line.partition("  # exit code ")
        if command.startswith("cd "):
            self.folder = (self.folder / shlex.split(command)[1]).resolve(strict=True)
            return Done(command, 0, 0, "")
        for long, short in SHRUNK.items() if self.shrunk else ():
            command = command.replace(long, short)
        if self.shrunk and command.startswith(LONGEST):
            return Done(command, 0, 0, "")
        if self.shrunk and command.startswith("testbed benchmark"):
            command += " logger=none"
        ran = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        return Done(command, ran.returncode, int(remark or 0), ran.stdout + ran.stderr)

    def writes(self, block: Block) -> None:
        """A file whose text the tutorial shows, in place of one that is there."""
        place = self.folder / block.name
        assert place.is_file(), place
        place.write_text(block.body, encoding="utf-8")


def blocks() -> list[Block]:
    """The tutorial's parts, from top to bottom."""
    return [Block(*found) for found in FENCE.findall(TUTORIAL.read_text(encoding="utf-8"))]


def without_numbers(text: str) -> str:
    """A line with its numbers as '#' and its spaces as one: machines differ in the last digits."""
    return " ".join(re.sub(r"[0-9]+(\.[0-9]+)?", "#", text).split())


def untold(shown: str, said: str) -> list[str]:
    """Which of the lines shown were not said, in this order."""
    lines = iter([without_numbers(line) for line in said.splitlines()])
    wanted = [line for line in shown.splitlines() if line.strip() not in ("", "...")]
    return [line for line in wanted if without_numbers(line) not in lines]


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """An environment of the reader's own: Python with testbed, and pip, which may look at no network."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    lent = {str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "lent.pth").write_text("\n".join(lent))
    for name, module in (("testbed", "testbed.cli"), ("pip", "pip")):
        (home / "bin" / name).write_text(f'#!/bin/sh\nexec "{home}/bin/python" -m {module} "$@"\n')
        (home / "bin" / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "TESTBED"))}
    offline = {
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "WANDB_MODE": "offline",
    }
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**kept, **offline, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"}


def test_it_shows_files_commands_and_what_they_say() -> None:
    found = blocks()
    assert {block.kind for block in found} == {"sh", "text", "python", "yaml"}
    assert all(block.name for block in found if block.kind in ("python", "yaml"))
    verbs = {line.split()[1] for block in found if block.kind == "sh" for line in block.body.splitlines() if "testbed " in line}
    assert verbs >= {"new", "check", "benchmark", "report", "train", "list"}


def test_the_defence_that_it_shows_is_short_and_tidy(tmp_path: Path) -> None:
    (method,) = (block for block in blocks() if block.kind == "python")
    assert len(method.body.split("@dataclass")[1].splitlines()) < 35
    (tmp_path / "method.py").write_text(method.body)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "128", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shrunk", [True, False], ids=["shrunk", "whole"])
def test_its_commands_work_in_order_and_say_what_it_shows(shrunk: bool, programs: dict[str, str], tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    reader, done = Reader(work, programs, shrunk), list[Done]()
    for block in blocks():
        if block.kind == "sh":
            done = [reader.does(line) for line in block.body.splitlines()]
            for each in done:
                assert each.code == each.wanted, f"{each.command}: {each.code}\n{each.said}"
        elif block.kind == "text":
            said = "\n".join(each.said for each in done)
            missing = untold(block.body, said)
            # With one seed there are no intervals to show.
            assert not missing or (shrunk and "±" in block.body), f"{missing}\nare not said:\n{said}"
        else:
            reader.writes(block)
    assert (work / "mine" / "outputs" / "report.html").is_file()


def test_what_is_shrunk_is_said_in_it() -> None:
    lines = [line for block in blocks() if block.kind == "sh" for line in block.body.splitlines()]
    assert all(any(long in line for line in lines) for long in (*SHRUNK, LONGEST))
