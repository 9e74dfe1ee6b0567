"""A W&B sweep by the client's own commands: `wandb sweep`, and a `wandb agent` that calls `testbed train`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from testbed.files import read_json

from .cloud import Cloud

ROOT = Path(__file__).resolve().parents[2]
SWEEP = ROOT / "scripts" / "wandb_sweep.yaml"
TINY = {"data": "digits", "trainer.max_epochs": 1, "model.network.width": 2, "trainer.threads": 1, "seed": 0}


@contextmanager
def wandb_command(*words: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A command of the client; it and all that it started have ended afterwards."""
    command = [sys.executable, "-P", "-m", "wandb", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    try:
        yield process
    finally:
        started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in (*started, process):
            one.kill()
        process.communicate()


@pytest.fixture
def agent(cloud: Callable[[str], Cloud], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cloud]:
    """Creates a sweep of `testbed train` over these parameters, and lets one agent make all of its runs."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "work" / "outputs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")

    def call(**varied: list[Any]) -> Cloud:
        server, sweep = cloud("answers"), yaml.safe_load(SWEEP.read_text(encoding="utf-8"))
        fixed = {name: {"value": value} for name, value in TINY.items()}
        sweep["parameters"] = fixed | {name: {"values": values} for name, values in varied.items()}
        Path("sweep.yaml").write_text(yaml.safe_dump(sweep), encoding="utf-8")
        for words in (("sweep", "--project", "mine", "sweep.yaml"), ("agent", "me/mine/sweep1")):
            with wandb_command(*words, env={**os.environ, "WANDB_DIR": "outputs"}) as process:
                said = process.communicate(timeout=240)[0]
                assert process.returncode == 0, said
        return server

    return call


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_agent_trains_what_the_sweep_asks_for_and_shows_it_as_its_run(agent) -> None:
    server = agent(attack=["badnets"])
    (folder,) = Path("outputs/train").glob("badnets-none-digits-s0-*")
    config, told = server.config("agents0"), server.runs["agents0"]
    assert (told["sweep"], told["project"], told["entity"], told["jobType"]) == ("sweep1", "mine", "me", "train")
    assert told["displayName"] == "badnets-none-digits-s0" and server.ended == {"agents0": 0}
    # What the sweep says stands beside what testbed resolved, and replaces none of it.
    assert (config["attack"], config["trainer.max_epochs"]) == ("badnets", 1)
    assert (config["attack_name"], config["seed"], config["config"]["trainer"]["max_epochs"]) == ("badnets", 0, 1)
    assert config["config"]["attack"]["_target_"] == "testbed.attack.backdoor.Backdoor"
    measures = read_json(folder / "result.json")["measures"]
    numbers = {name: value for name, value in measures.items() if isinstance(value, int | float)}
    assert numbers and numbers.items() <= server.summary("agents0").items()
    first, last = server.rows["agents0"][0], server.rows["agents0"][max(server.rows["agents0"])]
    assert first["epoch"] == 1 and first["undefended/loss"] > 0
    for picture in folder.glob("figures/*.png"):
        assert server.files[f"agents0/{last[f'figure/{picture.stem}']['path']}"] == picture.read_bytes()
    key = read_json(folder / "run.json")["key"]
    assert server.files[f"manifest-{key}/manifest.json"] == (folder / "manifest.json").read_bytes()
    assert {path.name for path in Path().iterdir()} == {"outputs", "sweep.yaml"}


@pytest.mark.slow
def test_an_agent_makes_one_run_after_the_other(agent) -> None:
    server = agent(attack=["none", "badnets"], defence=["none", "fine_tuning"])
    found = [(server.config(name)["attack_name"], server.config(name)["defence_name"]) for name in sorted(server.runs)]
    assert found == [("none", "none"), ("none", "fine_tuning"), ("badnets", "none"), ("badnets", "fine_tuning")]
    assert {told["sweep"] for told in server.runs.values()} == {"sweep1"} and set(server.ended.values()) == {0}


def test_the_shipped_sweep_names_what_testbed_has() -> None:
    from testbed.launcher.compose import composed
    from testbed.launcher.search import SearchPath

    sweep = yaml.safe_load(SWEEP.read_text(encoding="utf-8"))
    values = {name: told.get("values", [told.get("value")]) for name, told in sweep["parameters"].items()}
    fixed = [word for word in sweep["command"] if "=" in word]
    for one in range(max(map(len, values.values()))):
        words = [f"{name}={options[one % len(options)]}" for name, options in values.items()]
        composed("train", [*fixed, *words], SearchPath())
    assert sweep["command"][1:3] == ["${program}", "train"] and sweep["program"] == "testbed"
