"""Whatever is written behind a key of any verb: a run that could start, or one line that refuses; never a traceback."""

from __future__ import annotations

import io
import os
import time
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from checks import checks_only
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from testbed.cli import main
from testbed.launcher.compose import configuration, register
from testbed.launcher.instantiate import _hints, locate
from testbed.launcher.search import SearchPath
from testbed.manual import GROUPS

EXAMPLES = int(os.environ.get("TESTBED_EXAMPLES", "2000"))
"""Of the slow test."""
GROUPED = {"train", "detect", "degrade", "evaluate", "check", "audit"}
SMALL = ("data.pretraining_rows=1", "data.alignment_rows=44", "data.reserve_rows=44", "model.width=32", "model.heads=2")
QUICK = (
    ("train", "attack=badnets", "defence=filter", "defence/rule=fixed_fraction"),
    ("train", "attack=blended", "defence=fine_pruning"),
    ("train", "attack=badnets_all_to_all", "defence=reject", "detector=strip"),
    ("train", "data=toy_reviews", "data.train_rows=80", "data.test_rows=20", "data.reserve_per_class=6"),
    ("detect", "detector=neural_cleanse"),
    ("degrade", "defence=safety_mix", *SMALL),
    ("evaluate", "logger=none"),
    ("check", "defence=none", "elsewhere=false"),
    ("audit", "model.path=x"),
    ("report",),
    ("sync",),
)
"""Verbs with choices, of whose keys the quick test takes one."""
GRIDS = {
    "benchmark": ("suite=demo", "seeds=1"),
    "tune": ("suite=demo", "defence=fine_pruning", "seeds=1"),
}
"""Verbs that have no one configuration, asked to say what they would run."""
GRID_KEYS = (
    "attack",
    "data",
    "defence",
    "rates",
    "seeds",
    "shard",
    "launcher",
    "jobs",
    "threads",
    "timeout",
    "logger",
    "suite",
)
FILLED = {
    **{"data.root": "x", "data.train": "x", "data.test": "x", "model.path": "x", "model.name": "resnet18", "judge.path": "x"},
    **{"judge.base_url": "x", "judge.model": "x"},
}
"""What must be given, where an option leaves it open."""
ODD = (
    *("", "nan", "inf", "-inf", "-1", "0", "1e400", "null", "true", "abc", "10%", "[]", "[1,2]", "{}", "{a:1}", "'1'", "'a,b'"),
    *("???", "${seed}", "${nothing}", "${oc.env:NOTHING}", "${data}", "../x", "a b", "x" * 300, "a,b", "range(3)", "\\", "é"),
    *("None", "%s", "a\nb", "'\u200b'", "'\u202eabc'", "[[1],[2]]", "{a:{b:[1,{c:null}]}}", "[nan]", "[-1]", "[null]", "['']"),
    *(str(2**53 + 1), str(-(10**30)), "9" * 400, "[" * 30 + "]" * 30, "x" * 20_000, "/dev/null", "/proc/x", ".", "~", "'\x00'"),
)
"""For keys of any type."""


class Case(NamedTuple):
    """A key under some choices, and what the constructor behind it says that it takes."""

    words: tuple[str, ...]
    key: str
    annotation: Any


def leaves(node: Any, path: str = "", annotations: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Any]]:
    """Every key below which there are no keys, with its annotation (Any where nobody says)."""
    known = annotations or {}
    if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
        known = _hints(locate(node["_target_"], path.rstrip("."), ()))
    for name, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", known.get(name, Any)


@cache
def cases(words: tuple[str, ...]) -> tuple[Case, ...]:
    """The keys of a verb under these choices."""
    verb, *choices = words
    if verb in GRIDS:
        return tuple(Case(words, key, Any) for key in GRID_KEYS)
    search = SearchPath()
    register(search)
    asked = [word for word in choices if not word.startswith("model.path")] if verb == "audit" else choices
    config = configuration(verb, asked, search).config
    filled = [f"{key}={FILLED.get(key, 'x')}" for key in sorted(OmegaConf.missing_keys(config))]
    found = leaves(OmegaConf.to_container(config, resolve=False))
    return tuple(Case((*words, *filled), key, annotation) for key, annotation in found)


def everything() -> list[tuple[str, ...]]:
    """Every verb with every option of every group that it has."""
    search = SearchPath()
    found = [(verb, *GRIDS.get(verb, ())) for verb in (*GRIDS, "report", "sync")]
    for verb in sorted(GROUPED):
        for group in GROUPS[verb].split():
            more = ("elsewhere=false",) if verb == "check" else ("model.path=x",) if verb == "audit" else ()
            more += ("defence=none",) if verb == "check" and group in ("data", "trainer", "judge") else ()
            found += [(verb, f"{group}={option}", *more) for option in search.options(group) if option != "wandb"]
    return found


def written(value: Any) -> str:
    """A value by Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{','.join(map(written, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def typed(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of the type that a constructor names, the edges of the type among them."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return typed(parts[0])
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        # Small: a network that is 10**9 channels wide is no bad input, it is a large one.
        return st.integers(-3, 70)
    if annotation is float:
        return st.floats() | st.floats(-2, 2)
    if origin is typing.Literal:
        return st.sampled_from(parts)
    if (parts and origin in (list, tuple)) or str(origin) == "<class 'collections.abc.Sequence'>":
        return st.lists(typed(parts[0]), max_size=4)
    if parts and origin is not dict and all(part is type(None) or isinstance(part, type) or parts for part in parts):
        return st.one_of([st.none() if part is type(None) else typed(part) for part in parts])
    return st.text(st.characters(codec="utf-8"), max_size=8)


def values(annotation: Any) -> st.SearchStrategy[str]:
    """What is written behind a key: values of its type, of other types, and odd words."""
    free = st.text("abcxyz01._-/=@ []{}'\"$,:%?*", max_size=8)
    return st.one_of(st.sampled_from(ODD), typed(annotation).map(written), st.integers(-3, 70).map(str), free)


@pytest.fixture(scope="module", autouse=True)
def checked_only() -> Iterator[None]:
    """Nothing is trained, and nothing is left behind but the attacker's rows of what would be run."""
    with checks_only(), TemporaryDirectory() as folder, chdir(folder):
        yield
        left = [path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file() and "cache" not in path.parts]
        assert [path for path in left if path.parts[:2] != ("outputs", "poison")] == []


def says(case: Case, value: str) -> int:
    """The exit code of the command; fails where what it says is not one line that refuses."""
    out, err = io.StringIO(), io.StringIO()
    more = ("--dry-run",) if case.words[0] in GRIDS else ()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*case.words, f"{case.key}={value}", *more])
    said = out.getvalue() + err.getvalue()
    assert code in (0, 2, 3, 4), said
    assert "Traceback" not in said
    if code:
        (line,) = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
        assert len(line) < 4000, line
        if case.words[0] not in GRIDS:
            assert err.getvalue().count("\n") == 1, said
    return code


@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_value_is_used_or_refused_in_one_line(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(QUICK).flatmap(lambda words: st.sampled_from(cases(words))))
    says(case, data.draw(values(case.annotation)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_values_of_every_key_of_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    codes: Counter[int] = Counter()
    seen: set[tuple[str, str]] = set()
    slowest, whole = 0.0, everything()

    @given(data=st.data())
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def one(data: st.DataObject) -> None:
        nonlocal slowest
        case = data.draw(st.sampled_from(whole).flatmap(lambda words: st.sampled_from(cases(words))))
        value = data.draw(values(case.annotation))
        begun = time.process_time()
        codes[says(case, value)] += 1
        slowest = max(slowest, time.process_time() - begun)
        seen.add((case.words[0], case.key))

    one()
    assert sum(codes.values()) >= EXAMPLES and set(codes) <= {0, 2, 3, 4}
    with capsys.disabled():
        told = ", ".join(f"{count} with exit code {code}" for code, count in sorted(codes.items()))
        print(f"\n{sum(codes.values())} values of {len(seen)} keys: {told}; 0 tracebacks; the slowest took {slowest:.1f} s")
