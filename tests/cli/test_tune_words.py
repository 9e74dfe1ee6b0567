"""`testbed tune`, misspelt: every word that cannot be is refused in one line before anything is run; and what ranges mean."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuned_world import SPACE, folder

from testbed.launcher.compose import parsed
from testbed.launcher.space import Dimension, dimension, listed
from testbed.launcher.study import mend

Say = Callable[..., Any]


@pytest.fixture
def conf(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of configuration."""
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return folder(here)


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("defence=faded", "suite: must be given"),
        ("suite=tniy defence=faded", "suite=tniy: there is no such suite; did you mean tiny?"),
        ("suite=no_dev defence=faded", "suite=no_dev: it declares no dev attacks"),
        ("suite=tiny", "there is nothing to tune; say defence=NAME or attack=NAME"),
        ("suite=tiny defence=faedd", "defence=faedd: there is no such defence; did you mean faded?"),
        ("suite=tiny defence=none,faded", "defence=none,faded: one is tuned at a time"),
        ("suite=tiny defence=faded attack=blended", "defence and attack are given; the one with a range is tuned"),
        (
            f"suite=tiny defence=faded attack=badnets {SPACE}",
            "attack=badnets: a defence is tuned on the suite's dev attacks alone",
        ),
        ("suite=tiny defence=none", "nothing is searched: no word has a range in it, and conf/tune has no file of this name"),
        ("suite=tiny defence=faded defence.strength=0.5", "nothing is searched"),
        ("suite=tiny defence=faded trials=0", "trials=0: input should be greater than or equal to 1"),
        ("suite=tiny defence=faded trials=many", "trials=many: input should be a valid integer"),
        ("suite=tiny defence=faded trails=3", "trails=3: there is no such key; did you mean trials?"),
        ("suite=tiny defence=faded seeds=", "seeds=: there is nothing in it"),
        ("suite=tiny defence=faded loss=1", "loss=1: input should be less than 1"),
        ("suite=tiny defence=faded study=a/b", "study=a/b: a name may hold letters"),
        ("suite=tiny defence=faded data=icons", "data=icons: the suite has no such name; choose from digits"),
        ("suite=tiny defence=faded tune=none", "tune=none: there is no such search space"),
        ("suite=tiny defence=faded tune=wrong", "wrong.yaml: defence.strength=0.5: this is no range"),
        (
            "suite=tiny defence=faded defence.strenght=interval(0,1)",
            "defence.strenght: there is no such key in defence; did you",
        ),
        ("suite=tiny defence=faded defence.strength=interval(1,0)", "defence.strength=interval(1,0): the range is empty"),
        ("suite=tiny defence=faded defence.strength=interval(1,1)", "defence.strength=interval(1,1): the range is empty"),
        ("suite=tiny defence=faded defence.strength=interval(0,inf)", "a search needs two finite ends"),
        ("suite=tiny defence=faded defence.strength=tag(log,interval(0,1))", "the log of 0 is not a number; begin above 0"),
        ("suite=tiny defence=faded defence.strength=tag(fast,interval(0,1))", "there is no tag fast to search by"),
        ("suite=tiny defence=faded defence.strength=choice(1)", "there is only one value to choose"),
        (
            "suite=tiny defence=faded trainer.max_epochs=1,2",
            "trainer.max_epochs=1,2: only parameters of the defence are searched",
        ),
        ("suite=tiny defence=faded data.validation_per_class=0", "data.validation=0: parameters are tuned on validation rows"),
        ("suite=tiny defence=faded -m", "--multirun: testbed tune makes the grid itself; leave it out"),
        ("suite=tiny defence=faded --cfg job", "--cfg: testbed tune has no such option; say --dry-run"),
        ("suite=tiny defence=faded paths.outputs=a,b", "paths.outputs=a,b: only parameters of the defence are searched"),
        ("suite=tiny defence=faded defence", "defence: this is not key=value; see testbed tune --help"),
    ],
)
def test_bad_input_is_refused_in_one_line(words: str, refusal: str, say: Say, here: Path, conf: Path) -> None:
    said = say("tune", "--config-dir", "conf", *words.split())
    assert said.code == 2
    assert refusal in said.refusal()
    assert not list(here.glob("outputs/tune/*/result.json"))


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("interval(0,1)", {"low": 0.0, "high": 1.0}),
        ("tag(log,interval(1e-3,1))", {"low": 0.001, "high": 1.0, "log": True}),
        ("int(interval(1,8))", {"low": 1, "high": 8, "step": 1, "whole": True}),
        ("int(tag(log,interval(1,8)))", {"low": 1, "high": 8, "step": 1, "whole": True, "log": True}),
        ("range(10,41,10)", {"low": 10.0, "high": 40.0, "step": 10, "whole": True}),
        ("range(0,1,0.25)", {"low": 0.0, "high": 0.75, "step": 0.25}),
        ("relu,null,[1,2]", {"choices": ("relu", "null", "[1,2]")}),
    ],
)
def test_a_range_is_what_hydra_means_by_it(text: str, spans: dict[str, Any]) -> None:
    found = dimension(parsed(f"a.b={text}"))
    assert found == Dimension("a.b", text, **spans)
    sampled = found.distribution()
    ends = found.choices if found.choices else (found.low, found.high)
    assert all(sampled._contains(sampled.to_internal_repr(end)) for end in ends)


def test_a_grid_is_every_point_once_and_no_more_than_the_budget() -> None:
    axes = {key: dimension(parsed(f"{key}={text}")) for key, text in (("a", "range(1,4)"), ("b", "x,y"))}
    assert listed(axes, 6) == [{"a": a, "b": b} for a in (1, 2, 3) for b in ("x", "y")]
    assert listed(axes, 5) is None
    assert listed({**axes, "c": dimension(parsed("c=interval(0,1)"))}, 100) is None


def test_a_journal_loses_what_was_half_written_and_nothing_else(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    mend(journal)
    assert not journal.exists()
    for told, kept in (("", ""), ('{"a":1}\n', '{"a":1}\n'), ('{"a":1}\n{"b', '{"a":1}\n'), ('{"a', "")):
        journal.write_text(told)
        mend(journal)
        assert journal.read_text() == kept
