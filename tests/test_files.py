"""Files and folders come whole or not at all: crashes, full disks, damaged bytes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed import files
from testbed.files import DIGESTS, OLD, Damaged, committed, digests, leftovers, restore, sweep, verify, write_whole

CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir")


def test_a_file_is_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "told.json"
    for content in ("one", b"two"):
        write_whole(place, content)
    assert place.read_bytes() == b"two" and list(place.parent.iterdir()) == [place]


class Failing:
    """Lets the n-th call of these functions of `os` fail, and counts them."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, code: int) -> None:
        self.left, self.code, self.calls = number, code, 0
        for name in ("open", "fsync", "replace", "rename", "mkdir"):
            patch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            self.left -= 1
            if self.left == 0:
                raise OSError(self.code, os.strerror(self.code), str(arguments[0]))
            return real(*arguments, **options)

        return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_whatever_call_fails_the_old_folder_or_the_new_one_is_there(tmp_path: Path, code: int) -> None:
    final = tmp_path / "run"

    def commit(content: str) -> None:
        with committed(final) as folder:
            (folder / "result.json").write_text(content)

    commit("old")
    for number in range(1, 100):
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, number, code)
            try:
                commit("new")
            except OSError as error:
                assert error.errno == code
                failed = True
            else:
                failed = False
        verify(final)
        content = (final / "result.json").read_text()
        assert content in ("old", "new") and (content == "new" or failed)
        restore(final)
        assert [place.name for place in tmp_path.iterdir()] == ["run"]
        if failing.calls < number:
            break
        commit("old")
    assert number > 8


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_whatever_call_fails_the_old_file_or_the_new_one_is_there(tmp_path: Path, code: int) -> None:
    place = tmp_path / "told.json"
    for number in range(1, 100):
        write_whole(place, "old")
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, number, code)
            try:
                write_whole(place, "new")
            except OSError as error:
                assert error.errno == code
        assert place.read_text() in ("old", "new") and list(tmp_path.iterdir()) == [place]
        if failing.calls < number:
            break
    assert number > 4


def test_a_folder_that_was_moved_aside_when_the_process_was_killed_comes_back(tmp_path: Path) -> None:
    final = tmp_path / "name-[1]*"
    with committed(final) as folder:
        (folder / "result.json").write_text("old")
    final.rename(tmp_path / ".name-[1]*.17.abcdef01.replaced")
    (tmp_path / ".name-[1]*.17.abcdef01").mkdir()
    (tmp_path / ".other.17.abcdef01").mkdir()
    assert set(leftovers(tmp_path)) == {"name-[1]*", "other"}
    restore(final)
    assert (final / "result.json").read_text() == "old" and {path.name for path in tmp_path.iterdir()} == {
        final.name,
        ".other.17.abcdef01",
    }


def test_every_file_has_its_digest_and_damage_is_named(tmp_path: Path) -> None:
    final = tmp_path / "victim"
    with committed(final) as folder:
        (folder / "inside").mkdir()
        (folder / "model.safetensors").write_bytes(bytes(100))
        (folder / "inside" / "step").write_bytes(b"1")
    assert set(digests(final)) == {"model.safetensors", "inside/step"}
    verify(final)
    whole = bytearray((final / "model.safetensors").read_bytes())
    whole[50] ^= 1
    (final / "model.safetensors").write_bytes(whole)
    with pytest.raises(Damaged, match=r"model\.safetensors is not what was written"):
        verify(final)
    verify(final, "inside/step")
    (final / "inside" / "step").unlink()
    with pytest.raises(Damaged, match="step is missing"):
        verify(final, "inside/step")
    with pytest.raises(Damaged, match="has no digest"):
        verify(final, "card.json")
    for wrong in ("[]", "{", ""):
        (final / DIGESTS).write_text(wrong)
        with pytest.raises(Damaged):
            digests(final)
    (final / DIGESTS).unlink()
    assert digests(final) == {}


def test_only_what_dead_processes_left_is_swept(tmp_path: Path) -> None:
    killed = f"""
import os, signal
from pathlib import Path
from testbed import files
files.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
files.write_whole(Path({str(tmp_path)!r}) / "told.json", "new")
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    mine = left.with_name("~".join([*left.name.split("~")[:2], str(os.getpid()), "0" * 8]))
    other = left.with_name("~".join([left.name.split("~")[0], "elsewhere", *left.name.split("~")[2:]]))
    for place in (mine, other):
        place.write_text(json.dumps({}))
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {mine, other}
    for place in (mine, other):
        os.utime(place, (time.time() - 2 * OLD,) * 2)
    sweep(tmp_path)
    assert not list(tmp_path.iterdir()), "nobody writes a file for a day, whatever process has that number now"


@pytest.mark.parametrize("can", [True, False])
def test_an_old_folder_gives_way_to_the_new_one(can: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    final = tmp_path / "run"
    for content in ("old", "new"):
        with committed(final) as folder:
            (folder / "result.json").write_text(content)
        verify(final)
        assert (final / "result.json").read_text() == content and [place.name for place in tmp_path.iterdir()] == ["run"]


def test_places_are_changed_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files._exchanged(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists() and (tmp_path / "other" / "one").exists()
    with pytest.raises(FileNotFoundError, match="missing"):
        files._exchanged(tmp_path / "one", tmp_path / "missing")
