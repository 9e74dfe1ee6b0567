"""A world small enough to be trained in: 200 digits, one epoch."""

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
from testbed.attack.label import AllToOne
from testbed.data.digits import digits
from testbed.defence.none import NoDefence
from testbed.fit import Settings, one_cycle
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.pipeline.train import train
from testbed.record import read_json
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
