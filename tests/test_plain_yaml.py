"""YAML of strangers: what is within limits is what PyYAML reads, and what is not is refused before anything is made of it."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed import plain_yaml
from testbed.plain_yaml import Excessive, Unread, check, read

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
NAMES = "abcdefghijklmnop"


def bomb(levels: int, wide: int = 9) -> str:
    """Each level repeats the one before so many times."""
    lines = [f"{NAMES[0]}: &{NAMES[0]} [{','.join('1' * wide)}]"]
    steps = list(pairwise(NAMES))[:levels]
    lines += [f"{name}: &{name} [{','.join([f'*{before}'] * wide)}]" for before, name in steps]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to write to."""
    return tmp_path_factory.mktemp("yaml") / "a.yaml"


@given(
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4))
)
@settings(max_examples=60, deadline=None)
def test_what_was_written_is_read(place: Path, value: object) -> None:
    place.write_text(yaml.safe_dump(value), encoding="utf-8")
    assert read(place) == value


def test_aliases_within_the_limits_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {b: 1}\nc: *a\nd:\n  <<: *a\n  e: 2\n")
    assert read(tmp_path / "a.yaml") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}


@pytest.mark.parametrize("levels", range(1, 13))
def test_values_are_counted_as_often_as_they_are_repeated(levels: int) -> None:
    whole = sum((9 ** (level + 1) - 1) // 8 for level in range(1, levels + 2))  # lists and what is in them, level by level
    begun = time.process_time()
    if whole + levels > plain_yaml.MOST_VALUES:
        with pytest.raises(Excessive, match="stands for more than 200,000 values"):
            check(bomb(levels))
    else:
        check(bomb(levels))
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "more than 40 deep"),
        ("- " * 100_000, "more than 40 deep"),
        ("{a: " * 41 + "1" + "}" * 41, "more than 40 deep"),
        ("a: &a [*a]", "within what it repeats"),
        ("a: &a {b: &b [*a]}", "within what it repeats"),
        ("a: &a 1\nb: [" + "*a," * 201 + "]", "more than 200 aliases"),
        ("a: 1" + ":0" * 490_000, "a number has more than 300 characters: 1:0:0"),
        ("a: 1" + ":0" * 490_000 + ".5", "a number has more than 300 characters"),
        ("a: !!int '1" + ":0" * 490_000 + "'", "a number has more than 300 characters"),
        ("a: 0x" + "f" * 300, "a number has more than 300 characters"),
    ],
)
def test_what_is_over_a_limit_is_refused_at_once(text: str, said: str) -> None:
    begun = time.process_time()
    with pytest.raises(Excessive, match=said):
        check(text)
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize("text", ["{a: " * 40 + "1" + "}" * 40, "a: &a 1\nb: [" + "*a," * 200 + "]", "a: " + "9" * 300])
def test_what_is_at_a_limit_is_read(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    "content",
    [
        b"a: \xe9",
        b"a: [1",
        b"a: 2001-99-99",
        b"a: " + b"9" * 5_000,
        *(b"a: !!%b '%b'" % word for word in ((b"bool", b"7"), (b"int", b""), (b"timestamp", b"x"))),
        b"a: 1" + b":0" * 200 + b":0.5",
        b"a: !!python/object:os.system 1",
        b"a: *b",
        b"\x00",
        b"a: 1\na",
    ],
)
def test_what_is_no_plain_data_is_refused_with_its_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(Unread, match=r"a\.yaml: ") as refused:
        read(tmp_path / "a.yaml")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["1:30" * 200, "a word: " * 200, "'1" + ":0" * 200 + "'"])
def test_a_long_text_is_no_number(text: str, place: Path) -> None:
    place.write_text(yaml.safe_dump({"a": text}, width=10_000), encoding="utf-8")
    assert read(place) == {"a": text}


def test_numbers_to_base_60_stay_what_they_are(place: Path) -> None:
    place.write_text("{a: 1:30, b: 1:30.5, c: '1:30'}", encoding="utf-8")
    assert read(place) == {"a": 90, "b": 90.5, "c": "1:30"}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "a.yaml")


def test_the_size_is_known_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"#" * (plain_yaml.LARGEST + 1))
    with pytest.raises(Excessive, match="more than 1,000,000 bytes"):
        read(tmp_path / "a.yaml")
