"""The disk that fails finds what is wrong: a file written in place, a lock that is kept, a word that names no place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from testbed.files import committed, write_whole


@pytest.fixture
def writes(chaos: Callable[[str], ModuleType]) -> ModuleType:
    """The program that lets every call fail."""
    return chaos("writes")


def tried(writes: ModuleType, place: Path, write: object, only: str = "") -> dict[str, list[str]]:
    """What is wrong with a way to write a file of two versions; `only` breaks the calls of this name alone."""
    file = "outputs/benchmark/it/file"
    contents = {0: "0" * 900, 1: "1" * 900}

    def act(folder: Path, version: int) -> tuple[int, str]:
        (folder / file).parent.parent.mkdir(parents=True, exist_ok=True)
        return sys.modules["scenes"].explained(lambda: write(folder / file, contents[version]))  # type: ignore[operator,no-any-return]

    scene = writes.Scene("file", act, lambda folder: list(contents.values()).index((folder / file).read_text()))
    trials = writes.Trials(scene, place)
    numbers = [number for number, call in enumerate(trials.calls(), 1) if only in ("", call)]
    assert numbers, "nothing was broken"
    for number in numbers:
        for error in ("ENOSPC", "EIO", "EROFS") if only else ("ENOSPC", "EIO"):
            trials.fault(number, error)
        trials.death(number)
    return {kind: found for kind, found in trials.wrong.items() if found}


def test_a_file_that_is_written_in_place_is_found(writes: ModuleType, tmp_path: Path) -> None:
    wrong = tried(writes, tmp_path, in_place)
    assert any("write" in case for case in wrong["neither"])
    assert any("killed" in case for case in wrong["neither"])
    assert wrong["line"], "a write that fails names no file by itself"


def test_a_file_that_is_written_whole_is_old_or_new(writes: ModuleType, tmp_path: Path) -> None:
    assert tried(writes, tmp_path, write_whole) == {}


def test_folders_that_change_places_do_so_at_a_call_that_is_broken_as_others_are(writes: ModuleType, tmp_path: Path) -> None:
    assert tried(writes, tmp_path, in_a_folder, only="renameat2") == {}


def in_place(path: Path, text: str) -> None:
    """The wrong way."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def in_a_folder(path: Path, text: str) -> None:
    """A folder that is committed, the old one replaced."""
    with committed(path.parent) as folder:
        (folder / path.name).write_text(text)
