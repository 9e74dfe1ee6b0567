"""What killed processes left is brought in order when the next one starts; what others are making is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.lock import lock
from testbed.pipeline.gather import gathered
from testbed.record import Identity, Origin, Outcome, Workspace, recorded, status
from testbed.tidy import tidy


def identity(name: str) -> Identity:
    return Identity("train", f"{name}-s0", "0" * 16, "settings", "cell", {}, {"testbed.words": "0"})


def run(outputs: Path, name: str, measure: float = 1.0) -> Path:
    def work(workspace: Workspace) -> Outcome:
        return Outcome(measures={"clean_accuracy": measure})

    return recorded(identity(name), outputs, Origin({"seed": 0}), work)


def test_leftovers_go_and_a_folder_that_was_moved_aside_comes_back(tmp_path: Path) -> None:
    done = run(tmp_path, "done")
    done.rename(done.with_name(f".{done.name}.17.abcdef01.replaced"))
    half = tmp_path / "victim" / ".key.17.abcdef01"
    half.mkdir(parents=True)
    busy = tmp_path / "train" / ".busy.17.abcdef01"
    busy.mkdir()
    with lock(tmp_path / "train" / "busy"):
        tidy(tmp_path)
        assert status(done) == "done" and not half.exists() and busy.exists()
    tidy(tmp_path)
    assert not busy.exists()


def test_a_damaged_record_is_named_not_counted_and_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("good", "bad"):
        run(tmp_path, name)
    bad = identity("bad").folder(tmp_path)
    text = (bad / "result.json").read_text()
    (bad / "result.json").write_text(text.replace("1.0", "0.9"))
    assert status(bad) == "damaged" and text.count("1.0") == 1
    assert [f"not counted, its record is not what was written: {bad.name}"] == list(gathered(tmp_path, ["train"]).not_counted())
    (bad / "result.json").write_text("{")
    assert status(bad) == "damaged"
    capsys.readouterr()
    run(tmp_path, "bad")
    assert "its record is damaged, so that it is run again" in capsys.readouterr().out
    assert status(bad) == "done" and not list(gathered(tmp_path, ["train"]).not_counted())


def test_the_same_run_again_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path, "once")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    capsys.readouterr()
    assert run(tmp_path, "once", 0.5) == folder and "already done" in capsys.readouterr().out
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
