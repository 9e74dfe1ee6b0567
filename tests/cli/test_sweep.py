"""Sweeps by Hydra's grammar: no run can end the others, what failed is listed, and only that is run again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Say = Callable[..., Any]
BROKEN = '''"""Defences that fail, each in its own way, while the variable BROKEN is set."""

import os
import sys
from dataclasses import dataclass

from testbed.api import Defence

@dataclass(frozen=True)
class Raises(Defence):
    def after_training(self, victim, resources):
        if os.environ.get("BROKEN"):
            raise RuntimeError("two\\nlines")
        return victim

@dataclass(frozen=True)
class Leaves(Defence):
    def after_training(self, victim, resources):
        return sys.exit(0) if os.environ.get("BROKEN") else victim

@dataclass(frozen=True)
class Vanishes(Defence):
    def after_training(self, victim, resources):
        return os._exit(0) if os.environ.get("BROKEN") else victim

@dataclass(frozen=True)
class Diverges(Defence):
    def after_training(self, victim, resources):
        factor = float("nan") if os.environ.get("BROKEN") else 1.0
        return resources.fit(victim, resources.reserve, epochs=1, loss=lambda model, batch: factor * model.loss(batch))
'''
QUICK = ("trainer.max_epochs=1", "trainer.batch_size=256", "model.network.width=2", "logger=none", "paths.outputs=results")
DEFENCES = "defence._target_=broken.Raises,broken.Leaves,broken.Vanishes,testbed.defence.none.NoDefence,broken.Diverges"


def results(folder: Path) -> dict[str, Any]:
    """What each run folder says, by the run's name without its key."""
    found = {path.parent.name.rpartition("-")[0]: path for path in folder.glob("results/train/*/result.json")}
    return {name: json.loads(path.read_text()) for name, path in found.items()}


def test_failing_runs_end_no_sweep_and_are_run_again(spawn: Say, say: Say, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "broken.py").write_text(BROKEN)
    words = ("train", "-m", DEFENCES, "seed=range(3,4)", *QUICK)
    first = spawn(*words, BROKEN="yes")
    assert first.code == 1
    statuses = {name: result["status"] for name, result in results(here).items()}
    ends = {"Raises": "failed", "Leaves": "failed", "Vanishes": "failed", "NoDefence": "done", "Diverges": "diverged"}
    assert statuses == {f"badnets-{name}-digits-s3": end for name, end in ends.items()}
    reasons = {name: result["reason"] for name, result in results(here).items()}
    assert reasons["badnets-Leaves-digits-s3"] == "defence broken.Leaves (broken.py, line 19): SystemExit: 0"
    assert reasons["badnets-Vanishes-digits-s3"] == "defence broken.Vanishes (broken.py, line 24): SystemExit: 0"
    assert "loss" in reasons["badnets-Diverges-digits-s3"]
    assert "5 runs: 1 done, 4 not" in first.err
    listed = [line.split("_target_=")[1].split()[:2] for line in first.err.splitlines() if line.startswith("  not done (exit")]
    assert listed == [[f"broken.{name}", "seed=3"] for name in ("Raises", "Leaves", "Vanishes", "Diverges")]
    assert "Traceback" not in first.out + first.err
    assert {path.name for path in here.iterdir()} == {"broken.py", "results"}

    done = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in here.glob("results/train/*NoDefence*/*.json")}
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of what is imported here, as where it is spawned
    second = say(*words)
    monkeypatch.delitem(sys.modules, "broken")
    assert (second.code, {result["status"] for result in results(here).values()}) == (0, {"done"})
    assert second.out.count("already done, nothing was run") == 1
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in done} == done
    assert "5 runs: 5 done, 0 not" in second.err
    last = here / second.out.splitlines()[-1]
    assert last.name.startswith("badnets-Diverges-digits-s3-")
    assert (last / "result.json").is_file()
    assert {path.name for path in here.iterdir()} == {"broken.py", "results"}


def test_a_combination_that_cannot_be_composed_stops_all_before_any_is_run(say: Say, here: Path) -> None:
    said = say("train", "-m", "attack=badnets,none", "attack.trigger.size=4", *QUICK)
    assert said.code == 2
    assert "attack.trigger.size" in said.refusal()
    assert results(here) == {}


def test_values_that_no_run_can_have_are_refused_run_by_run(say: Say, here: Path) -> None:
    said = say("train", "-m", "attack.poison_rate=7,0", *QUICK)
    assert said.code == 1
    assert "error: attack.poison_rate=7.0: must lie between 0 and 1" in said.err
    assert "2 runs: 1 done, 1 not" in said.err
    assert [result["counts"]["poisoned"] for result in results(here).values()] == [0]
    assert said.out.splitlines()[-1].startswith("results/train/badnets-none-digits-s0-")
    assert say("train", "-m", "attack.poison_rate=7,8", *QUICK).code == 2


@pytest.mark.parametrize("grammar", ["choice(0,1)", "range(2)", "glob", "'0','1'"])
def test_every_kind_of_sweep_is_understood(grammar: str, say: Say) -> None:
    group = grammar.startswith("glob")
    said = say(
        "train", "-m", "attack=glob([badnets,blended])" if group else f"seed={grammar}", *QUICK, "attack.target_label=10"
    )
    assert said.code == 2
    assert said.err.count("error: attack.target_label=10: the classes are 0 to 9") == 2
