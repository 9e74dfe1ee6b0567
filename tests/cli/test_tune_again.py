"""`testbed tune`, gone on with: never under another configuration or on other rows than those that its trials had."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tuned_world import folder

from testbed.launcher.compose import parsed, register
from testbed.launcher.declared import declared
from testbed.launcher.search import SearchPath
from testbed.launcher.space import dimension
from testbed.launcher.study import Verdict, opened
from testbed.launcher.tuning import tuning

Say = Callable[..., Any]
BEGIN = ("tune", "--config-dir", "conf", "suite=tiny", "defence=faded")
STUDY = "study=tiny-faded-s0: "


@pytest.fixture
def conf(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of configuration."""
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return folder(here)


def done(place: Path) -> list[str]:
    """How the trials of the only study ended that has been finished."""
    return [line.split(",")[3] for line in next(place.glob("study/*/trials.csv")).read_text().splitlines()[1:]]


def configuration(*words: str) -> dict[str, str]:
    """What a study with these words declares of its configuration."""
    search = SearchPath("conf")
    register(search)
    return dict(declared(tuning(words, search))["configuration"])


def searched(place: Path, *, interrupted: bool) -> list[tuple[str, ...]]:
    """The parameters of 14 trials, ten of them random; each of them is asked for twice where the first was interrupted."""
    axes = {"a.b": dimension(parsed("a.b=interval(0,1)"))}
    with opened(place, axes, {"trials": 14, "seed": 0}, "maximize") as study:
        for _ in range(14):
            if interrupted:
                study.ask()
                assert study.close_interrupted() == 1
            trial, _ = study.ask()
            study.tell(trial, Verdict("done", value=-((trial.params["a.b"] - 0.3) ** 2)))
        return [point.words for point in study.finished()]


def test_an_interruption_changes_nothing_of_what_comes_after_it(tmp_path: Path) -> None:
    found = searched(tmp_path / "whole", interrupted=False)
    assert found == searched(tmp_path / "interrupted", interrupted=True)
    assert len(set(found)) == 14


def test_an_edited_method_is_not_gone_on_with_and_the_best_is_one_that_was_tried(say: Say, here: Path, conf: Path) -> None:
    words, method = (*BEGIN, "defence.strength=0.25,0.5"), conf / "defence" / "faded.yaml"
    method.write_text(method.read_text().replace("none", "edits"))  # the first trial overwrites the file
    began = method.read_text()
    for _ in ("while it runs", "when it is gone on with"):
        refusal = say(*words).refusal()
        assert refusal.startswith(f"{STUDY}it was begun with configuration {{defence=")
        assert refusal.endswith("; say study=NAME to begin another")
        assert len(list(here.glob("outputs/tune/*/result.json"))) == 1
    method.write_text(f"# as it was\n{began}")
    assert say(*words).code == 0
    assert done(here / "outputs") == ["done", "done"]
    tuned = yaml.safe_load((here / "outputs/study/tiny-faded-s0/conf/defence/faded_tuned.yaml").read_text())
    assert tuned["fault"] == "edits"
    assert yaml.safe_load(method.read_text())["fault"] == "edited"  # which no trial was


def test_trials_on_other_rows_are_not_compared(say: Say, here: Path, conf: Path) -> None:
    words = (*BEGIN, "defence.strength=0.25,0.5", "defence.fault=spoils")  # the first trial changes the data
    for _ in ("while it runs", "when it is gone on with"):
        refusal = say(*words).refusal()
        assert refusal.startswith(f"{STUDY}the data of digits blended faded s0 changed since its trials were run (contents ")
    (here / "spoilt").unlink()
    said = say(*words)
    assert said.code == 0
    assert "1 of 2 trials are done" in said.out
    assert done(here / "outputs") == ["done", "done"]
    found = yaml.safe_load((here / "outputs/study/tiny-faded-s0/best.yaml").read_text())
    assert {label: len(digest) for label, digest in found["contents"].items()} == {"digits blended faded s0": 12}


def test_every_option_that_is_searched_belongs_to_the_configuration(here: Path, conf: Path) -> None:
    options = {name: conf / "detector" / f"{name}.yaml" for name in ("one", "two", "other")}
    options["one"].parent.mkdir()
    for path in options.values():
        path.write_text("_target_: mine.Detector\nrows: 1\n")
    words = ("suite=tiny", "defence=faded", "detector=one,two", "defence.strength=interval(0,1)")
    before = configuration(*words)
    options["other"].write_text("_target_: mine.Detector\nrows: 2\n")
    assert before == configuration(*words, "paths.data=elsewhere", "trainer.threads=2")
    options["two"].write_text("_target_: mine.Detector\nrows: 2\n")
    assert {name for name, digest in configuration(*words).items() if digest != before[name]} == {"detector"}
    assert before["trainer"] != configuration(*words, "trainer.max_epochs=3")["trainer"]


def test_a_parameter_that_only_the_search_gives_can_be_declared(here: Path, conf: Path) -> None:
    (conf / "defence" / "faded.yaml").write_text("_target_: mine.Faded\nstrength: 0.1\nfault: ???\n")
    assert configuration("suite=tiny", "defence=faded", "defence.fault=none,mild")
