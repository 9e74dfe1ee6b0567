"""`testbed tune`: a search that never meets a test row, keeps to its budget, and survives whatever ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from filelock import FileLock
from tuned_world import MINE, SUITE, folder

Say = Callable[..., Any]
BEGIN = ("tune", "--config-dir", "conf", "suite=tiny", "defence=faded")


@pytest.fixture
def conf(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of configuration."""
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return folder(here)


def trials(place: Path) -> list[list[str]]:
    """Rows of `trials.csv` without the seconds."""
    lines = next(place.glob("study/*/trials.csv")).read_text().splitlines()
    return [line.split(",")[:-1] for line in lines[1:]]


def best(place: Path) -> Any:
    return yaml.safe_load(next(place.glob("study/*/best.yaml")).read_text())


def results(place: Path) -> list[Any]:
    return [json.loads(path.read_text()) for path in sorted(place.glob("tune/*/result.json"))]


def test_no_test_row_is_touched_and_every_value_has_its_n(say: Say, here: Path, conf: Path) -> None:
    said = say(*BEGIN, "trials=3")
    assert (said.code, said.err) == (0, "")
    assert "on validation rows only; dev attacks: blended" in said.out
    assert [result["status"] for result in results(here / "outputs")] == ["done"] * 3
    found = best(here / "outputs")
    assert (found["trials"], found["trials_made"], found["n"]) == (3, 3, {"runs": 1, "success rows": 45, "clean rows": 50})
    assert (found["against"], found["split"], len(found["suite_hash"])) == (["blended"], "validation", 12)
    assert found["score"] == max(result["measures"]["defence_effectiveness"] for result in results(here / "outputs"))
    assert "1 x 45/50" in said.out
    assert "one row of 45 is 2.2 percentage points" in said.out
    assert say("report", "runs=outputs").refusal().startswith("runs=outputs: there is no finished run below it")
    tested = say("train", "--config-dir", "conf", "data=sealed", "defence=faded", "trainer.max_epochs=1")
    assert tested.code == 1  # the seal is one: whoever measures on test rows breaks it
    assert "somebody counted the test rows" in tested.err


def test_the_best_is_a_defence_for_every_verb(say: Say, here: Path, conf: Path) -> None:
    said = say(*BEGIN, "defence.fault=mild", "trials=2")
    found = best(here / "outputs")
    value = found["values"]["defence.strength"]
    assert found["overrides"] == ["defence=faded", f"defence.strength={value}", "defence.fault=mild"]
    assert found["command"][-2:] == ["--config-dir", "conf"]
    lines = [line.split() for line in said.out.splitlines() if line.startswith("  testbed train ")]
    assert lines == [
        ["testbed", "train", "--config-dir", "conf", *found["overrides"]],
        ["testbed", "train", "--config-dir", "outputs/study/tiny-faded-s0/conf", "defence=faded_tuned"],
    ]
    for line in lines:
        shown = yaml.safe_load(say(*line[1:], "--cfg", "job").out)
        assert shown["defence"] == {"_target_": "mine.Faded", "strength": value, "fault": "mild"}


def test_a_killed_search_goes_on_as_if_nothing_had_been(here: Path, conf: Path, environment: dict[str, str], say: Say) -> None:
    words = [*BEGIN, "trials=5", "paths.outputs=killed"]
    assert say(*words[:-1], "paths.outputs=whole").code == 0
    started = subprocess.Popen(
        [sys.executable, "-m", "testbed.cli", *words], cwd=here, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout is not None
        for line in started.stdout:
            if line.startswith("[2/5]"):
                (here / "block").touch()
                break
        _wait_for(here / "reached", started)
        os.kill(started.pid, signal.SIGKILL)
        started.wait(timeout=60)
    finally:
        started.kill()
        started.stdout.close()
    (here / "block").unlink()
    done = {path: path.stat().st_mtime_ns for path in here.glob("killed/tune/*/result.json")}
    assert len(done) in (2, 3)
    with (here / "killed" / "study" / "tiny-faded-s0" / "journal.log").open("a") as stream:
        stream.write('{"op_code":6,"wor')  # as a process leaves it that is ended in the middle of writing
    resumed = say(*words)
    assert resumed.code == 0
    assert f"{len(done)} of 5 trials are done; 1 interrupted, which is run again" in resumed.out
    assert f"[{len(done)}/5]" not in resumed.out and f"[{len(done) + 1}/5]" in resumed.out
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert trials(here / "killed") == trials(here / "whole")
    assert len(results(here / "killed")) == 5
    assert "[" not in say(*words).out.partition(" trial ")[0]


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None
        time.sleep(0.1)
    raise AssertionError(f"{path} never came")


def _type_ctrl_c(when: Path) -> None:
    """The main thread gets what a terminal sends, once this file is there."""
    for _ in range(600):
        if when.exists():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return
        time.sleep(0.1)


def test_ctrl_c_leaves_a_study_that_goes_on(here: Path, conf: Path, say: Say) -> None:
    words = (*BEGIN, "trials=2")
    (here / "block").touch()
    typing = threading.Thread(target=_type_ctrl_c, args=(here / "reached",))
    typing.start()
    said = say(*words)
    typing.join()
    assert (said.code, said.err) == (130, "interrupted; run the same command again to resume\n")
    (here / "block").unlink()
    assert say(*words).code == 0
    assert len(trials(here / "outputs")) == 2


def test_a_study_is_one_search_with_one_budget(say: Say, here: Path, conf: Path) -> None:
    assert say(*BEGIN, "trials=1").code == 0
    name = "study=tiny-faded-s0: it was begun with "
    assert say(*BEGIN).refusal() == f"{name}trials 1, not 4; say study=NAME to begin another"
    wider = say(*BEGIN, "trials=1", "defence.strength=interval(0,0.5)").refusal()
    assert wider.startswith(f"{name}search {{defence.strength=interval(0,1)}}, not {{defence.strength=interval(0,0.5)}}")
    assert say(*BEGIN, "trials=1", "loss=0.1").refusal().startswith(f"{name}objective most defence effectiveness")
    (conf / "suite" / "tiny.yaml").write_text(SUITE.replace("seeds: 1", "seeds: 2"))
    assert say(*BEGIN, "trials=1").refusal().startswith(f"{name}suite_hash ")
    assert say(*BEGIN, "trials=1", "study=other").code == 0
    with FileLock(here / "outputs" / "study" / "other" / ".lock"):
        said = say(*BEGIN, "trials=1", "study=other")
    assert (said.code, said.refusal()) == (4, "study=other: another process works on it; wait for it, or say study=NAME")


def test_scores_of_other_code_are_not_gone_on_with(say: Say, here: Path, conf: Path) -> None:
    (here / "altered.py").write_text(MINE)
    (conf / "defence" / "faded.yaml").write_text("_target_: altered.Faded\nstrength: 0.0\nfault: none\n")
    assert say(*BEGIN, "trials=1").code == 0
    (here / "altered.py").write_text(MINE + "\n# changed\n")
    assert say(*BEGIN, "trials=1").refusal().startswith("study=tiny-faded-s0: altered changed since its trials were run")


def test_what_fails_has_a_reason_and_no_score(say: Say, here: Path, conf: Path) -> None:
    said = say(*BEGIN, "trials=8", "defence.fault=none,unsupported,diverged,raises", "defence.strength=0.25,1.5")
    assert said.code == 1
    found = {tuple(row[1:3]): (row[3] != "", row[4]) for row in trials(here / "outputs")}
    assert found == {
        ("none", "0.25"): (True, "done"),
        ("unsupported", "0.25"): (False, "skipped"),
        ("diverged", "0.25"): (False, "diverged"),
        ("raises", "0.25"): (False, "failed"),
        **{(fault, "1.5"): (False, "invalid") for fault in ("none", "unsupported", "diverged", "raises")},
    }
    assert "skipped: digits blended faded s0: it does not apply here" in said.out
    assert "invalid: defence.strength=1.5: must be at most 1" in said.out
    assert best(here / "outputs")["trials_by_status"] == {"done": 1, "invalid": 4, "skipped": 1, "diverged": 1, "failed": 1}
    only = say(*BEGIN, "trials=1", "study=only", "defence.fault=raises")
    assert only.code == 1
    assert "there is no best" in only.out and not (here / "outputs" / "study" / "only" / "best.yaml").exists()


def test_a_wrong_word_that_is_not_searched_ends_the_search(say: Say, here: Path, conf: Path) -> None:
    said = say(*BEGIN, "trainer.max_epochs=0")
    assert (said.code, said.refusal().partition(":")[0]) == (2, "trainer.max_epochs=0")
    assert not list(here.glob("outputs/study/*/trials.csv"))


def test_a_declared_loss_rules_trials_out(say: Say, here: Path, conf: Path) -> None:
    learnt = ("trainer.max_epochs=4", "trainer.batch_size=32", "model.network.width=8", "attack.target_label=3")
    said = say(*BEGIN, "loss=0.1", *learnt, "defence.strength=0.0,1.0")
    assert said.code == 0
    assert "objective: least attack success, the mean over runs; clean accuracy lost <= 0.1" in said.out
    kept, gone = trials(here / "outputs")
    assert (kept[1], kept[3], gone[1], gone[3]) == ("0.0", "done", "1.0", "infeasible")
    assert float(gone[2]) == 0 < float(kept[2])  # the better score, which costs too much
    assert best(here / "outputs")["values"]["defence.strength"] == 0


def test_an_attack_is_scored_by_the_defence_that_stops_it_best(say: Say, here: Path, conf: Path) -> None:
    words = ("tune", "--config-dir", "conf", "suite=tiny", "attack=blended", "attack.trigger.alpha=0.1,0.5", "loss=0.5")
    said = say(*words, "trainer.max_epochs=2")
    assert (said.code, said.err) == (0, "")
    found = best(here / "outputs")
    alpha = found["values"]["attack.trigger.alpha"]
    success: dict[str, list[float]] = {"NoDefence": [], "Faded": []}
    for path in here.glob("outputs/tune/*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        if config["attack"]["trigger"]["alpha"] == alpha:
            result = json.loads((path.parent / "result.json").read_text())
            success[config["defence"]["_target_"].rpartition(".")[2]].append(result["measures"]["attack_success_rate"])
    assert {name: len(rates) for name, rates in success.items()} == {"NoDefence": 1, "Faded": 1}
    assert found["score"] == pytest.approx(min(map(fmean, success.values())))
    assert found["against"] == ["none", "faded"] and found["trials_made"] == 2


def test_a_dry_run_tells_and_leaves_nothing(say: Say, here: Path, conf: Path) -> None:
    said = say(*BEGIN, "--dry-run")
    assert (said.code, said.err) == (0, "")
    assert "4 trials (TPE)" in said.out
    assert "departures from the suite: none\n" in said.out
    assert "departures from the suite: 5 trials instead of 4\n" in say(*BEGIN, "trials=5", "--dry-run").out
    for word in ("++paths.outputs='there'", "++paths.outputs=there"):
        assert say(*BEGIN, word, "--dry-run").out.endswith("\nthere/study/tiny-faded-s0: would be begun\n")
    departed = "departures from the suite: trainer.max_epochs=2 in every run; seeds 0, 1 instead of 0\n"
    assert departed in say(*BEGIN, "trainer.max_epochs=2", "seeds=2", "--dry-run").out
    assert "defence.strength = interval(0, 1)" in said.out.replace("(0,1)", "(0, 1)")
    assert "each trial is 1 runs, 4 in all:\n  digits blended faded s0: " in said.out
    assert {path.name for path in here.iterdir()} == {"conf", "mine.py"}
