"""A defence that lives outside the repository works by all three routes, and an edit of it reruns its own runs alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.api import Invalid
from testbed.cli import main
from testbed.launcher.instantiate import instantiate
from testbed.words import Refused

ROOT = Path(__file__).resolve().parent.parent

DEFENCE = '''
"""A defence of somebody else's."""

import copy
from dataclasses import dataclass

import torch

from testbed.api import Defence


@dataclass(frozen=True)
class {name}(Defence):
    """Adds to every weight."""

    strength: float = 0.0

    def after_training(self, victim, resources):
        repaired = copy.deepcopy(victim)
        with torch.no_grad():
            for value in repaired.parameters():
                value.add_(self.strength)
        return repaired
'''

PACKAGE = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "plugin-of-somebody"
version = "1.0"

[project.entry-points."testbed.conf"]
somebody = "plugin_of_somebody.conf"

[tool.hatch.build.targets.wheel]
packages = ["plugin_of_somebody"]
"""


@dataclass(frozen=True)
class Elsewhere:
    """A working directory with mine.py, a folder of configuration, and a place where the package is installed."""

    folder: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def testbed(self, verb: str, *words: str) -> str:
        """What a real command prints, once it has succeeded."""
        short = () if verb == "check" else ("trainer.max_epochs=1", "logger=none")
        command = [sys.executable, "-m", "testbed.cli", verb, *words, *short, f"paths.outputs={self.outputs}"]
        paths = os.pathsep.join([str(self.folder / "site"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, name: str) -> tuple[Path, dict, dict]:
        """The newest run of this name: its folder, run.json and result.json."""
        found = max(self.outputs.glob(f"train/badnets-{name}-digits-s0-*"), key=lambda path: path.stat().st_mtime_ns)
        return found, *(json.loads((found / f"{part}.json").read_text()) for part in ("run", "result"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    there = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    _write(there.work / "mine.py", DEFENCE.format(name="MyDefence"))
    _write(there.work / "conf" / "defence" / "mine.yaml", "# Mine.\n_target_: mine.MyDefence\nstrength: 0.01\n")
    _install(there.folder / "source", there.folder / "site")
    return there


def _install(source: Path, site: Path) -> None:
    """Build the package by its own build backend, and unpack the wheel: what an installer does, without a network."""
    package = source / "plugin_of_somebody"
    _write(source / "pyproject.toml", PACKAGE)
    _write(package / "__init__.py", "")
    _write(package / "idea.py", DEFENCE.format(name="Packaged"))
    _write(
        package / "conf" / "defence" / "packaged.yaml",
        "# Packaged.\n_target_: plugin_of_somebody.idea.Packaged\nstrength: 0.0\n",
    )
    build = "from hatchling.build import build_wheel; print(build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True)
    zipfile.ZipFile(source / built.stdout.split()[-1]).extractall(site)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def swept(elsewhere: Elsewhere) -> Elsewhere:
    """A sweep over a shipped defence and two that came by a folder and by a package, and one over a named class."""
    elsewhere.testbed("train", "-m", "--config-dir", "conf", "defence=none,mine,packaged")
    elsewhere.testbed("train", "-m", "defence._target_=mine.MyDefence", "seed=0")
    return elsewhere


def test_a_sweep_takes_defences_by_all_three_routes(swept: Elsewhere) -> None:
    runs = {name: swept.run(name) for name in ("none", "mine", "packaged", "MyDefence")}
    assert {name: result["status"] for name, (_, _, result) in runs.items()} == dict.fromkeys(runs, "done")
    accuracy = {name: result["measures"]["clean_accuracy"] for name, (_, _, result) in runs.items()}
    assert accuracy["packaged"] == accuracy["MyDefence"] == accuracy["none"], "they add nothing to the weights"
    assert "mine" in runs["mine"][1]["sources"] and "plugin_of_somebody.idea" in runs["packaged"][1]["sources"]


def test_defences_that_act_after_training_share_one_victim(swept: Elsewhere) -> None:
    victims = {path.name for path in swept.outputs.glob("victim/[0-9a-f]*")}
    assert len(victims) == 2, "the poisoned one and its clean twin"
    for name in ("mine", "packaged", "MyDefence"):
        _, provenance, _ = swept.run(name)
        assert {f"victim/{victim}" for victim in victims} <= set(provenance["reused"])
        assert not provenance["made"]


def test_check_takes_defences_by_all_three_routes(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    swept = elsewhere.testbed("check", "-m", "--config-dir", "conf", "defence=mine,packaged")
    assert "defence=mine (mine.MyDefence)" in swept and "defence=packaged (plugin_of_somebody.idea.Packaged)" in swept
    monkeypatch.chdir(elsewhere.work)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the working directory is put on it
    assert main(["check", "defence._target_=mine.MyDefence", f"paths.outputs={elsewhere.outputs}"]) == 0
    del sys.modules["mine"]
    named = capsys.readouterr().out
    assert "(mine.MyDefence)" in named and "every promise is kept" in named


def test_an_edit_reruns_only_what_it_changed(swept: Elsewhere) -> None:
    before = {name: swept.run(name)[0] for name in ("none", "mine", "packaged")}
    mine = swept.work / "mine.py"
    mine.write_text(mine.read_text() + "\n# A thought.\n")
    said = swept.testbed("train", "--config-dir", "conf", "defence=mine")
    after, provenance, _ = swept.run("mine")
    assert after != before["mine"] and before["mine"].is_dir(), "the old record stays"
    assert f"stale: {before['mine'].name}" in said and "mine changed" in said
    assert provenance["reused"] and not provenance["made"], "the victim does not depend on the defence"
    others = swept.testbed("train", "-m", "defence=none,packaged")
    assert others.count("already done") == 2 and "stale" not in others
    assert {name: swept.run(name)[0] for name in ("none", "packaged")} == {name: before[name] for name in ("none", "packaged")}
    assert "stale" in swept.testbed("train", "defence._target_=mine.MyDefence"), "a single run by the class's name"


def test_a_shipped_name_cannot_be_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "defence" / "none.yaml", "_target_: mine.MyDefence\n")
    assert main(["train", "--config-dir", str(tmp_path), "defence=none"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "none.yaml" in line and "testbed's own name" in line


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "subprocess.run", "builtins.eval", "torch.load", "torch.hub.load", "numpy.load", "mine.MyDefence"),
        *("hydra.utils.instantiate", "torchvision.datasets.MNIST", "testbedded.Mine", "torch.optimal.Adam"),
    ],
)
def test_what_nobody_named_is_not_called(target: str) -> None:
    with pytest.raises(Refused, match="not permitted") as refusal:
        instantiate({"_target_": "testbed.defence.none.NoDefence", "inner": [{"_target_": target}]}, "defence")
    assert refusal.value.code == 3


@pytest.mark.parametrize("target", ["testbed.record.shutil.rmtree", "torch.optim.adam.torch.hub.load", "testbed.cli.sys.exit"])
def test_what_a_permitted_module_imports_cannot_be_reached_through_it(target: str) -> None:
    with pytest.raises((Refused, Invalid)):
        instantiate({"_target_": target}, "defence")
