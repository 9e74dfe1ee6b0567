"""When a run is taken as done without being composed again, and when it must not be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from testbed.files import digest
from testbed.index import Entry, entry, file_stamp, stamp_of, watched, write


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A folder of outputs with one finished run."""
    folder = tmp_path / "outputs" / "train" / "one"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    return tmp_path / "outputs"


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Stamps are kept for as long as a process lives; a test is several processes in one."""
    file_stamp.cache_clear()


def test_an_entry_holds_for_as_long_as_nothing_that_made_it_changes(outputs: Path, tmp_path: Path) -> None:
    method = tmp_path / "mine.py"
    method.write_text("1")
    result = outputs / "train" / "one" / "result.json"
    made = Entry("done", folder="train/one", stamp="now", watched=watched([method]), record=digest(result))
    write(outputs, "abcd", made)
    assert entry(outputs, "abcd") == made
    assert made.holds(outputs, "now")
    assert not made.holds(outputs, "later")
    assert not replace(made, status="failed").holds(outputs, "now")
    assert not replace(made, folder="train/gone").holds(outputs, "now")
    told = result.read_text()
    result.write_text(told + " ")
    assert not made.holds(outputs, "now"), "a record that is not what was written is made again"
    result.write_text(told)
    method.write_text("22")
    file_stamp.cache_clear()
    assert not made.holds(outputs, "now")


def test_what_is_no_entry_of_this_version_is_none(outputs: Path) -> None:
    assert entry(outputs, "none") is None
    write(outputs, "abcd", Entry("done"))
    place = next(outputs.glob("index/*/abcd.json"))
    for damage in ('{"status": "done", "older": 1}', '{"status": "do', "[]"):
        place.write_text(damage)
        assert entry(outputs, "abcd") is None


def test_a_stamp_follows_links_and_sees_what_lies_behind_them(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").mkdir()
    image = tmp_path / "real" / "image"
    image.write_text("1")
    (tmp_path / "root" / "set").symlink_to(tmp_path / "real")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "nowhere").symlink_to(tmp_path / "absent")
    before = file_stamp(tmp_path / "root")
    file_stamp.cache_clear()
    assert file_stamp(tmp_path / "root") == before
    image.write_text("22")
    file_stamp.cache_clear()
    assert file_stamp(tmp_path / "root") != before


def test_words_mean_something_else_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf, shared = tmp_path / "conf", tmp_path / "shared"
    conf.mkdir()
    shared.mkdir()
    (shared / "mine.yaml").write_text("root: ${oc.env:MY_ROOT,here}")
    (conf / "defence").symlink_to(shared)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MY_ROOT", raising=False)
    stamps = [stamp_of([conf], ["data.root=${oc.env:OTHER_ROOT}"])]
    assert stamp_of([conf], ["data.root=${oc.env:OTHER_ROOT}"]) == stamps[0]
    for name in ("MY_ROOT", "OTHER_ROOT"):
        monkeypatch.setenv(name, "there")
        stamps.append(stamp_of([conf], ["data.root=${oc.env:OTHER_ROOT}"]))
    (shared / "mine.yaml").write_text("root: ${oc.env:MY_ROOT,here}  # edited")
    stamps.append(stamp_of([conf], ["data.root=${oc.env:OTHER_ROOT}"]))
    monkeypatch.chdir(shared)
    stamps.append(stamp_of([conf], ["data.root=${oc.env:OTHER_ROOT}"]))
    assert len(set(stamps)) == len(stamps)
