"""The disk that fails finds what is wrong: a file written in place, a lock that is kept, a word that names no place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from testbed.files import write_whole

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "chaos"


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The program as a module; its neighbours are found as they are when it is run, and forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import writes

    yield writes
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(str(sys.modules[name].__file__)).parent == SCRIPTS:
            del sys.modules[name]


def tried(writes: ModuleType, place: Path, write: object) -> dict[str, list[str]]:
    """What is wrong with a way to write a file of two versions."""
    file = "outputs/benchmark/it/file"
    contents = {0: "0" * 900, 1: "1" * 900}

    def act(folder: Path, version: int) -> tuple[int, str]:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        return writes.explained(lambda: write(folder / file, contents[version]))  # type: ignore[operator]

    scene = writes.Scene("file", act, lambda folder: list(contents.values()).index((folder / file).read_text()))
    trials = writes.Trials(scene, place)
    for number in range(1, trials.calls() + 1):
        for error in ("ENOSPC", "EIO"):
            trials.fault(number, error)
        trials.death(number)
    return {kind: found for kind, found in trials.wrong.items() if found}


def test_a_file_that_is_written_in_place_is_found(writes: ModuleType, tmp_path: Path) -> None:
    wrong = tried(writes, tmp_path, lambda path, text: path.write_text(text))
    assert any("write" in case for case in wrong["neither"])
    assert any("killed" in case for case in wrong["neither"])
    assert wrong["line"], "a write that fails names no file by itself"


def test_a_file_that_is_written_whole_is_old_or_new(writes: ModuleType, tmp_path: Path) -> None:
    assert tried(writes, tmp_path, write_whole) == {}
