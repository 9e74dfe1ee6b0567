"""`testbed sync`: everything in W&B, rebuilt from the run folders alone, once, and again without anything being there twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.cli import main
from testbed.files import read_json
from testbed.logger.rebuild import rebuild
from testbed.logger.wandb import WandbLogger

from .board import asked_by
from .cloud import Cloud
from .kept import kept_run, values

TABLES = {"leaderboard", "cells", "differences"}


@pytest.fixture
def sync(outputs: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`testbed sync` in this process: the exit code, and what was printed on both streams."""

    def call(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["sync", f"runs={outputs}", f"paths.outputs={outputs}", *words])
        return code, *capfd.readouterr()

    return call


def identifier(folder: Path) -> str:
    return f"train-{read_json(folder / 'run.json')['key']}"


def kept(outputs: Path) -> list[str]:
    return sorted(path.name.split("-", 3)[3] for path in outputs.glob("wandb/offline-run-*"))


def test_everything_is_kept_once_and_what_has_not_changed_is_passed_by(run, outputs, sync) -> None:
    folders = [run(seed=3), run(seed=4), run(seed=5, outcome="failed")]
    code, out, err = sync()
    assert (code, err) == (0, "") and "3 runs, leaderboards: 1; 4 shown, 0 shown before, 0 not shown" in out
    assert kept(outputs) == sorted(["leaderboard-train", *map(identifier, folders)])
    before = sorted(outputs.glob("wandb/offline-run-*"))
    assert "0 shown, 4 shown before, 0 not shown" in sync()[1] and sorted(outputs.glob("wandb/offline-run-*")) == before
    assert "4 shown, 0 shown before, 0 not shown" in sync("anew=true")[1]
    assert "4 shown, 0 shown before, 0 not shown" in sync("logger.project=mine")[1]
    assert kept(outputs) == sorted(["leaderboard-train", *map(identifier, folders)])
    assert kept_run(outputs, identifier(folders[0])).project == "mine"


def test_a_run_says_which_suites_ask_for_it_and_where_it_stands(run, outputs, sync) -> None:
    folder = run(seed=3)
    first, second = asked_by("first", outputs, folder), asked_by("second", outputs, folder)
    assert sync()[0] == 0
    told = kept_run(outputs, identifier(folder))
    config = values(told.config.update)
    assert (told.run_group, list(told.tags), config["suites"]) == (first, [first, second], [first, second])
    assert (config["world"], config["suite_attack"], config["suite_method"]) == ("tiny digits", "patch", "none")
    assert (config["attack_name"], config["defence_name"], config["data_name"]) == ("badnets", "none", "digits")
    assert {f"leaderboard-{first}", f"leaderboard-{second}"} <= set(kept(outputs))
    asked_by("third", outputs, folder)
    assert "2 shown, 2 shown before" in sync()[1]  # the run has a further tag; the others are what they were


def test_what_its_suite_does_not_ask_for_any_more_is_stale(run, outputs, sync) -> None:
    first = asked_by("first", outputs, run(seed=3))
    old, shared = run(seed=4, group=first), run(seed=5, group=first)
    second = asked_by("second", outputs, shared)
    run(seed=6, group="sweep-01234567")
    assert sync()[0] == 0
    told = kept_run(outputs, identifier(old))
    assert (told.run_group, list(told.tags), values(told.config.update)["stale"]) == (first, [first, "stale"], True)
    told = kept_run(outputs, identifier(shared))  # another suite asks for it: there it belongs now
    assert (told.run_group, list(told.tags), "stale" in values(told.config.update)) == (second, [second], False)
    others = [name for name in kept(outputs) if name.startswith("train-") and name not in map(identifier, (old, shared))]
    assert len(others) == 2 and not any("stale" in kept_run(outputs, name).tags for name in others)
    asked_by("first", outputs, old)
    assert sync()[0] == 0 and list(kept_run(outputs, identifier(old)).tags) == [first]


def test_a_group_alone(run, outputs, sync) -> None:
    run(seed=3)
    mine, folder = "sweep-01234567", run(seed=4, group="sweep-01234567")
    assert sync(f"group={mine}")[0] == 0 and kept(outputs) == [identifier(folder)]
    assert sync("group=no-such-group")[0] == 2


def test_copies_of_a_run_are_one_run(run, outputs, sync) -> None:
    folder = run(seed=3)
    shutil.copytree(folder, outputs / "from the cluster" / "train" / folder.name)
    assert "1 runs" in sync()[1] and kept(outputs).count(identifier(folder)) == 1


def test_one_broken_folder_costs_a_line_and_only_itself(run, outputs, sync) -> None:
    whole, broken = run(seed=3), run(seed=4)
    (broken / "figures" / "success.png").write_bytes(b"no picture")
    code, out, err = sync()
    assert code == 1 and "2 shown, 0 shown before, 1 not shown" in out
    assert err.count("\n") == 1 and err.startswith("W&B: not shown (") and err.rstrip().endswith(str(broken))
    assert identifier(whole) in kept(outputs)


@pytest.mark.parametrize(("name", "text"), [("result.json", "{"), ("run.json", '{"schema": 1}')])
def test_a_record_that_cannot_be_read_is_named(run, outputs, sync, name, text) -> None:
    whole, damaged = run(seed=3), run(seed=4)
    (damaged / name).write_text(text)
    code, out, err = sync()
    assert code == 1 and "1 runs" in out and "1 not shown" in out
    assert err == f"not shown, made by an earlier version or damaged: {damaged}\n" and identifier(whole) in kept(outputs)


def test_after_an_interruption_only_the_rest_is_shown(run, outputs, sync, monkeypatch) -> None:
    for seed in (3, 4, 5):
        run(seed=seed)
    monkeypatch.setattr("testbed.logger.rebuild.BATCH", 2)
    calls = []

    def settle() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("testbed.logger.rebuild.settle", settle)
        assert sync()[0] == 130
    assert "2 shown, 2 shown before, 0 not shown" in sync()[1]
    assert len(kept(outputs)) == len(set(kept(outputs))) == 4


@pytest.mark.parametrize("words", [("logger=none",), ("logger.mode=disabled",)])
def test_a_logger_that_shows_nothing_is_refused(run, sync, words) -> None:
    run()
    code, _, err = sync(*words)
    assert code == 2 and err.count("\n") == 1 and "logger" in err and "shows nothing" in err


def test_where_there_is_no_run_there_is_nothing_to_show(outputs, sync) -> None:
    code, _, err = sync()
    assert code == 2 and "there is no finished run" in err


def arrives(server: Cloud, folder: Path) -> None:
    """Everything of this run is at the server: configuration, group, rows, picture, table and artifact."""
    name, facts = identifier(folder), read_json(folder / "run.json")
    told, config = server.runs[name], server.config(name)
    assert (told["groupName"], told["jobType"], told["displayName"]) == ("badnets-none-digits", "train", facts["name"])
    assert (config["attack_name"], config["config"]["attack"]["poison_rate"]) == ("badnets", 0.05)
    assert [row.get("undefended/loss") for _, row in sorted(server.rows[name].items())] == [2.0, 0.5, 0.25, None]
    measures = read_json(folder / "result.json")["measures"]
    assert {measure: server.summary(name).get(measure) for measure in measures} == measures
    last = server.rows[name][3]
    assert server.files[f"{name}/{last['figure/success']['path']}"] == (folder / "figures" / "success.png").read_bytes()
    table = server.table(name, "roc/scores_table")
    assert table["columns"] == ["false_positive_rate", "true_positive_rate"] and table["data"][-1] == [1.0, 1.0]
    assert server.files[f"manifest-{facts['key']}/manifest.json"] == (folder / "manifest.json").read_bytes()
    assert server.ended[name] == 0


def test_online_everything_arrives_once(run, outputs, cloud, sync) -> None:
    folders = [run(seed=3), run(seed=4)]
    assert sync()[0] == 0  # offline first, as after a journey
    server = cloud()
    code, out, err = sync("logger.mode=online", "logger.patience=30")
    assert (code, err) == (0, "") and "3 shown, 0 shown before, 0 not shown" in out
    for folder in folders:
        arrives(server, folder)
    assert {*map(identifier, folders), "leaderboard-train"} == set(server.runs)
    cells = server.table("leaderboard-train", "cells")
    (cell,) = [dict(zip(cells["columns"], row, strict=True)) for row in cells["data"]]
    assert (cell["attack"], cell["method"], cell["attack_success_rate"], cell["clean_accuracy_n"]) == ("badnets", "none", 1, 2)
    requests = server.requests
    assert "0 shown, 3 shown before" in sync("logger.mode=online")[1] and server.requests == requests
    assert b"/home/somebody" not in b"".join(server.files.values()) + json.dumps([server.operations, server.rows]).encode()


def test_the_clients_own_sync_sends_a_whole_folder_of_kept_runs(run, outputs, cloud, sync) -> None:
    folders = [run(seed=3), run(seed=4)]
    assert sync()[0] == 0
    server = cloud()
    command = [sys.executable, "-P", "-m", "wandb", "sync", str(outputs / "wandb")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for folder in folders:
        arrives(server, folder)
    assert set(server.runs) == {*map(identifier, folders), "leaderboard-train"}


@pytest.fixture(params=["closed", "swallows"])
def unreachable(request, cloud, monkeypatch) -> None:
    """A server that is not there, or that takes every connection and says nothing."""
    cloud(request.param)
    if request.param == "closed":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setattr("testbed.logger.rebuild.START", 1.0)
    monkeypatch.setattr("testbed.logger.rebuild.BATCH", 2)


def test_an_unreachable_server_costs_one_time_out_and_one_line(unreachable, run, outputs, sync) -> None:
    folders = [run(seed=seed) for seed in (3, 4, 5)]
    start = time.monotonic()
    code, out, err = sync("logger.mode=online", "logger.patience=1")
    assert code == 1 and "0 shown, 0 shown before, 4 not shown" in out
    assert err.count("\n") == 1 and "4 were kept offline" in err and "run the same command again" in err
    assert time.monotonic() - start < 15 and set(map(identifier, folders)) < set(kept(outputs))


@pytest.mark.slow
def test_what_the_server_loses_is_not_called_shown(run, outputs, cloud, sync) -> None:
    folder, server = run(), cloud("loses")
    code, out, err = sync("logger.mode=online", "logger.patience=30")
    assert code == 1 and "1 shown, 0 shown before, 1 not shown" in out
    assert err.count("\n") == 1 and "failed to log artifact" in err and str(folder) in err
    server.behaviour = "answers"
    assert "1 shown, 1 shown before, 0 not shown" in sync("logger.mode=online", "logger.patience=30")[1]
    arrives(server, folder)


def test_what_an_agent_showed_is_shown_as_its_run_again(run, outputs, monkeypatch) -> None:
    folder = run()
    with monkeypatch.context() as agent:
        agent.setenv("WANDB_SWEEP_ID", "sweep1")
        agent.setenv("WANDB_RUN_ID", "agents1")
        WandbLogger().show(folder, outputs)
    tally = rebuild(WandbLogger(project="elsewhere"), {folder: ()}, {}, outputs, anew=False)
    assert tally == (1, 0, 0) and kept(outputs) == ["agents1"]
    assert kept_run(outputs, "agents1").sweep_id == "sweep1"
