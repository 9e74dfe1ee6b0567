"""`testbed new` writes a package whose method keeps every promise, and overwrites nothing."""

from __future__ import annotations

import resource
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.launcher.new import KINDS, RUN
from testbed.launcher.search import own_folder

Say = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]

REFUSED = {
    "defence": "new defence: a name is missing; say testbed new defence mine",
    "defenc mine": "new defenc: there is no such kind of method; did you mean defence?",
    "defence mine yours": "new defence mine yours: one kind and one name at a time; say testbed new defence mine",
    "data mine": "new data: data of your own need no code: say data=arrays, image_folder, text_table or messages",
    "defence my-defence": "new defence my-defence: a name is of small letters, digits and '_', begins with a letter",
    "defence Mine": "new defence Mine: a name is of small letters, digits and '_'",
    "defence ../mine": "new defence ../mine: a name is of small letters, digits and '_'",
    "defence 2fast": "new defence 2fast: a name is of small letters, digits and '_'",
    f"defence {'m' * 41}": "begins with a letter and has 40 at most",
    "defence class": "new defence class: the name means something else; choose another name",
    "defence match": "new defence match: the name means something else",
    "defence tests": "new defence tests: the name means something else",
    "defence null": "new defence null: the name means something else",
    "defence fine_pruning": "new defence fine_pruning: defence=fine_pruning is there already; choose another name",
    "attack badnets": "new attack badnets: attack=badnets is there already",
    "defence numpy": "new defence numpy: Python has a module of this name already; choose another name",
    "defence random": "new defence random: Python has a module of this name already",
    "defence testbed": "new defence testbed: Python has a module of this name already",
    "defence victim": "new defence victim: its class would be Victim, which testbed has already; choose another name",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_name_that_cannot_be_is_refused_in_one_line(words: str, say: Say, here: Path) -> None:
    said = say("new", *words.split())
    assert said.code == 2 and REFUSED[words] in said.refusal()
    assert not list(here.iterdir())


def test_nothing_is_overwritten(say: Say, here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "diary").write_text("dear")
    (here / "yours").write_text("a file")
    for name in ("mine", "yours"):
        said = say("new", "defence", name)
        assert said.code == 2 and f"{name} is there already, and nothing is overwritten" in said.refusal()
    assert [path.name for path in sorted(here.rglob("*"))] == ["mine", "diary", "yours"]


def test_the_checkout_is_left_alone(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "tests")
    said = say("new", "defence", "mine")
    assert said.code == 2 and "this folder is testbed's own" in said.refusal() and not (ROOT / "tests" / "mine").exists()


def test_all_is_written_or_nothing(say: Say, here: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most[1]))  # the method itself is longer than that
    try:
        said = say("new", "defence", "mine")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert said.code == 4 and f"cannot write into {here} (File too large)" in said.refusal()
    assert not list(here.iterdir())


def test_it_says_what_it_can_make_and_answers_at_once(spawn: Say) -> None:
    nothing, made = spawn("new"), spawn("new", "defense", "mine")
    assert nothing.code == made.code == 0
    assert all(f"  {kind:<10}{what}" in nothing.out for kind, what in KINDS.items())
    for said in (nothing, made):
        assert said.out.splitlines()[-1] == "heavy:", "no heavy library is imported"
    assert "testbed check defence=mine --config-dir mine/conf" in made.out


def test_it_makes_every_kind_of_method() -> None:
    groups = {path.name for path in own_folder().iterdir() if path.is_dir()}
    assert set(KINDS) == set(RUN) <= groups


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_writes_is_a_tidy_package(kind: str, say: Say, here: Path) -> None:
    assert say("new", kind, "my_own").code == 0
    project = tomllib.loads((here / "my_own" / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["testbed.conf"] == {"my_own": "my_own.conf"}
    told = yaml.safe_load((here / "my_own" / "my_own" / "conf" / kind / "my_own.yaml").read_text())
    assert "my_own.method.MyOwn" in str(told)
    for tool in (("check", "--select", "E,F,I,B,UP,SIM"), ("format", "--check")):
        command = [sys.executable, "-m", "ruff", *tool, "--isolated", "--line-length", "128", "."]
        done = subprocess.run(command, cwd=here / "my_own", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"judge"}))
def test_what_it_writes_keeps_every_promise(kind: str, say: Say, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"my_{kind}"  # a module is imported once in this process
    assert say("new", kind, name).code == 0
    monkeypatch.chdir(here / name)
    said = say("check", f"{kind}={name}", "--config-dir", f"{name}/conf")
    assert said.code == 0 and said.out.splitlines()[-1] == "every promise is kept", said


@pytest.mark.parametrize("kind", [pytest.param("judge", marks=pytest.mark.slow), "defence"])
def test_its_own_test_passes(kind: str, say: Say, here: Path, environment: dict[str, str]) -> None:
    assert say("new", kind, "mine").code == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=here / "mine", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
