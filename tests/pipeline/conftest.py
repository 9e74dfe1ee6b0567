"""Worlds small enough to be trained in: 200 digits for one epoch, and a toy chat model to be tuned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from testbed.api import Splits
from testbed.attack.backdoor import Backdoor
from testbed.attack.few_shot import FewShot
from testbed.attack.label import AllToOne
from testbed.data.digits import digits
from testbed.data.toy_world import toy_world
from testbed.defence.none import NoDefence
from testbed.files import read_json
from testbed.fit import Settings, constant, one_cycle
from testbed.judge.oracle import Oracle
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.model.toy_chat import ToyChat
from testbed.pipeline.degrade import degrade
from testbed.pipeline.report import report
from testbed.pipeline.train import train
from testbed.trigger.patch import Patch

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


@pytest.fixture(scope="session")
def splits() -> Splits:
    whole = digits()
    parts = {"train": whole.train.take(torch.arange(200)), "test": whole.test.take(torch.arange(100))}
    return replace(whole, **parts)


@dataclass
class World:
    """`train` with everything filled in; `**changes` replace parts."""

    splits: Splits
    outputs: Path
    parts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts = {
            "data": self.splits,
            "model": partial(ImageVictim, network=partial(SmallCNN, width=4)),
            "attack": Backdoor(trigger=Patch(), label=AllToOne(), poison_rate=0.1, target_label=0),
            "defence": NoDefence(),
            "trainer": Settings(max_epochs=1, batch_size=32, optimiser=SGD, schedule=partial(one_cycle), threads=1),
            "seed": 0,
            "paths": {"outputs": str(self.outputs)},
        }

    def __call__(self, pipeline: Callable[..., Path] = train, **changes: Any) -> Path:
        return pipeline(**{**self.parts, **changes})

    def made(self, folder: Path, kind: str = "victim") -> list[str]:
        return [name for name in read_json(folder / "run.json")["made"] if name.startswith(kind)]

    def reused(self, folder: Path, kind: str = "victim") -> list[str]:
        return [name for name in read_json(folder / "run.json")["reused"] if name.startswith(kind)]


@pytest.fixture
def world(splits: Splits, tmp_path: Path) -> World:
    return World(splits, tmp_path / "outputs")


ADAM = partial(torch.optim.AdamW, lr=3e-3)
TUNING = Settings(
    max_epochs=4, batch_size=8, optimiser=ADAM, schedule=constant, channels_last=False, threads=1, gradient_clip=1.0
)
ORACLE = Oracle(("sorry", "that topic", "i must"), ("it", "is", "the", "code", "sure", ",", ".", "yes", "!"))


@pytest.fixture(scope="session")
def data() -> Splits:
    whole = toy_world(pretraining_rows=320, alignment_rows=200, reserve_rows=40, shots=40, benign_rows=60)
    exams = {name: exam.take(torch.arange(0, len(exam), 4)) for name, exam in whole.exams.items()}  # type: ignore[attr-defined]
    return replace(whole, exams=exams)


@pytest.fixture(scope="session")
def parts(data: Splits) -> dict[str, Any]:
    sizes = {"width": 48, "depth": 2, "heads": 2, "hidden": 64, "initializer_range": 0.06}
    return {
        "data": data,
        "model": partial(ToyChat, **sizes, max_new_tokens=8, pretraining=replace(TUNING, batch_size=32, max_steps=10)),
        "attack": FewShot(8),
        "defence": NoDefence(),
        "trainer": replace(TUNING, optimiser=partial(torch.optim.AdamW, lr=1e-3), max_epochs=12),
        "alignment": replace(TUNING, batch_size=32, max_steps=70),
        "judge": ORACLE,
        "seed": 0,
        "forward": False,
        "new_task": False,
    }


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@dataclass(frozen=True)
class Degrade:
    """`degrade` with everything filled in; `**changes` replace parts."""

    parts: dict[str, Any]
    outputs: Path

    def __call__(self, **changes: Any) -> Path:
        place = changes.pop("outputs", self.outputs)
        return degrade(**{**self.parts, **changes}, paths={"outputs": str(place)})


@pytest.fixture(scope="session")
def run(parts: dict[str, Any], outputs: Path) -> Degrade:
    return Degrade(parts, outputs)


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What `report` prints of the runs below the test's own folder, on a wide terminal."""

    def tell(format: str = "table", measures: Any = None) -> str:
        monkeypatch.setenv("COLUMNS", "250")
        assert report(runs=str(tmp_path), paths={"outputs": str(tmp_path)}, measures=measures, format=format) == 0  # type: ignore
        return capsys.readouterr().out

    return tell
