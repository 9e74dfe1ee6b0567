"""Whatever is written behind a key: a run that could start, or one line that refuses; never a traceback."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from testbed.api import Attack, Defence, Splits
from testbed.cli import main
from testbed.data import digits
from testbed.error import component
from testbed.fit import Settings
from testbed.launcher import job
from testbed.launcher.compose import configuration, register
from testbed.launcher.search import SearchPath
from testbed.pipeline.run import identify
from testbed.pipeline.scene import Model, Scene
from testbed.record import Origin, Workspace

CHOICES = (
    ("attack=badnets", "defence=filter", "defence/rule=fixed_fraction"),
    ("attack=blended", "defence=fine_pruning"),
    ("attack=badnets_all_to_all", "defence=reject", "detector=strip"),
    ("attack=none", "defence=random_filter", "logger=none"),
)
WORDS = (
    "",
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e400",
    "null",
    "true",
    "abc",
    "10%",
    "[]",
    "[1,2]",
    "{}",
    "{a:1}",
    "'1'",
    "'a,b'",
)
STRANGE = (
    "???",
    "${seed}",
    "${nothing}",
    "${oc.env:NOTHING}",
    "../x",
    "a b",
    "x" * 300,
    "a,b",
    "range(3)",
    "\\",
    "é",
    "None",
    "%s",
    "a\nb",
)


def leaves(node: Any, path: str = "") -> Iterator[str]:
    """Every key below which there are no keys."""
    items = node.items() if isinstance(node, Mapping) else ()
    for name, value in items:
        yield from leaves(value, f"{path}{name}.") if isinstance(value, Mapping) and value else (f"{path}{name}",)


def keys(choices: tuple[str, ...]) -> list[str]:
    """The scalar keys of `train` under these choices."""
    search = SearchPath()
    register(search)
    return sorted(leaves(OmegaConf.to_container(configuration("train", choices, search).config, resolve=False)))


CASES = st.sampled_from([(choices, key) for choices in CHOICES for key in keys(choices)])
# Small numbers: a network that is 10**9 channels wide is no bad input, it is a large one.
VALUES = st.one_of(
    st.sampled_from(WORDS + STRANGE),
    st.integers(-3, 70).map(str),
    st.floats(-2, 2).map(str),
    st.text("abcxyz01._-/=@ []{}'\"$,:%?*", max_size=8),
)


def checks(
    *,
    data: Splits,
    model: Model,
    attack: Attack,
    defence: Defence,
    trainer: Settings,
    seed: int,
    paths: Mapping[str, str],
    logger: Any = None,
    origin: Origin | None = None,
) -> int:
    """All that `train` checks before it trains, and nothing else."""
    outputs = Path(paths["outputs"])
    parts = {"data": data, "model": model, "attack": attack, "method": defence, "trainer": trainer, "seed": seed}
    identify("train", **parts, origin=origin or Origin())
    scene = Scene(data, model, attack, trainer, seed, outputs, Workspace(outputs))
    trainer.check()
    scene.fresh()
    with component("attack"):
        attack.check(scene.attacker)
    with component("defence"):
        defence.check(scene.defender(data.train, True))
    return 0


@pytest.fixture(scope="module", autouse=True)
def checked_only() -> Iterator[None]:
    """The digits are read once, and nothing is trained."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder, chdir(folder):
        patch.setitem(job.PIPELINES, "train", f"{__name__}:checks")
        patch.setattr(digits, "stored", cache(digits.stored))
        yield
        assert list(Path(folder).iterdir()) == []


@given(case=CASES, value=VALUES)
@example((CHOICES[0], "seed"), "0")
@settings(max_examples=200, deadline=None)
def test_a_value_is_used_or_refused_in_one_line(case: tuple[tuple[str, ...], str], value: str) -> None:
    choices, key = case
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["train", *choices, f"{key}={value}"])
    said = out.getvalue() + err.getvalue()
    assert code in (0, 2, 3, 4), said
    assert "Traceback" not in said
    if code:
        assert said.startswith("error: "), said
        assert said.count("\n") == 1, said
