"""A finished run made by the recorder, and a W&B server on the loopback that remembers what it was sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from PIL import Image

from testbed.files import write_json
from testbed.record import Identity, Origin, Outcome, Workspace, recorded

from .cloud import Cloud, serving

KEY = "0123456789abcdef"
WEIGHTS = b"these are the weights of a victim"
ANSWERS = 0.123456789
CONFIG = {
    "seed": 3,
    "paths": {"outputs": "/home/somebody/outputs", "data": "/home/somebody/data"},
    "data": {"_target_": "testbed.data.image_folder.image_folder", "root": "/home/somebody/data/cats"},
    "attack": {"_target_": "testbed.attack.backdoor.Backdoor", "poison_rate": 0.05, "target_label": 0},
    "logger": {"_target_": "testbed.logger.wandb.WandbLogger", "mode": "offline"},
}
MEASURES = {"clean_accuracy": 0.875, "attack_success_rate": 1.0, "fpr_at_rule": None, "flagged_classes": [1, 2]}
NAMES = {"attack": "badnets", "defence": "none", "data": "digits", "model": "small_cnn"}
CURVES = {"aa": [2.0, 0.5, 0.25], "bb": [2.0, 0.4]}


@pytest.fixture(autouse=True)
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of somebody without an account or a setting; the client forgets every session."""
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith(("WANDB_", "XDG_", "NETRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(home / "work")
    wandb.teardown()
    yield home
    wandb.teardown()


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Where runs are kept, with the victims that they used."""
    place = tmp_path / "outputs"
    for name, losses in CURVES.items():
        (place / "victim" / name).mkdir(parents=True)
        write_json(
            place / "victim" / name / "curve.json", [{"epoch": float(n), "loss": loss} for n, loss in enumerate(losses, 1)]
        )
        (place / "victim" / name / "model.safetensors").write_bytes(WEIGHTS)
    return place


@pytest.fixture
def run(outputs: Path) -> Callable[..., Path]:
    """Makes a committed run folder, as the pipelines do."""

    def make(
        *, verb: str = "train", seed: int = 3, group: str = "", outcome: str = "done", place: str = "", **said: Any
    ) -> Path:
        def work(workspace: Workspace) -> Outcome:
            (workspace.folder / "figures").mkdir()
            Image.new("RGB", (16, 16), "red").save(workspace.folder / "figures" / "success.png")
            workspace.tensors("scores", scores=torch.arange(8.0), suspicious=torch.arange(8) % 3 == 2)
            workspace.tensors("answers", given=torch.full((4,), ANSWERS, dtype=torch.float64))
            workspace.write("manifest.json", {"indices": [4, 7], "backdoored": True} | ({"source": place} if place else {}))
            workspace.victims.update(undefended="aa", clean_twin="bb")
            return Outcome(outcome, None if outcome == "done" else "why", MEASURES | said, {"clean_accuracy": 400})

        identity = Identity(verb, f"badnets-none-digits-s{seed}", f"{KEY}{seed}", "settings", "cell", {}, {})
        return recorded(identity, outputs, Origin({**CONFIG, "seed": seed}, ("testbed",), NAMES, group), work)

    return make


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Cloud]]:
    """Starts a server of this behaviour, with which the client has an account."""
    with ExitStack() as servers:

        def start(behaviour: str = "answers") -> Cloud:
            cloud = servers.enter_context(serving(behaviour))
            monkeypatch.setenv("WANDB_BASE_URL", cloud.url)
            monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
            return cloud

        yield start
