"""Small real parts for tests of detectors: rows in memory, linear victims, a defender's resources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from testbed.api import Batch, DefenderResources, ImageTask, Task, Victim


class Rows:
    """Examples in memory."""

    def __init__(self, inputs: Any, labels: Tensor | None = None) -> None:
        self.inputs = inputs
        self.labels = torch.zeros(len(inputs), dtype=torch.int64) if labels is None else labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, indices: Tensor) -> Batch:
        return Batch(self.inputs[indices], self.labels[indices], indices)


class LinearVictim(Victim):
    """Logits are an affine map of the raw pixels, which are also the features."""

    def __init__(self, weights: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.float())
        self.bias = nn.Parameter(torch.zeros(len(weights)) if bias is None else bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1).float() @ self.weights.T + self.bias

    def loss(self, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self(batch.inputs), batch.labels)

    @property
    def layers(self) -> tuple[str, ...]:
        return ("penultimate",)

    def features(self, inputs: Tensor, layer: str) -> Tensor:
        return inputs.float()


def _no_training(*arguments: Any, **options: Any) -> Victim:
    raise RuntimeError("detectors do not train")


@pytest.fixture(scope="session")
def rows() -> Callable[..., Rows]:
    return Rows


@pytest.fixture(scope="session")
def linear_victim() -> Callable[..., LinearVictim]:
    return LinearVictim


@pytest.fixture(scope="session")
def defender() -> Callable[..., DefenderResources]:
    """`defender(victim, reserve, classes=3, kind="images", seed=0)`."""

    def build(victim: Victim, reserve: Rows, *, classes: int = 3, kind: str = "images", seed: int = 0) -> DefenderResources:
        names = tuple(str(number) for number in range(classes))
        task = ImageTask(kind, names) if kind == "images" else Task(kind, names)
        return DefenderResources(task=task, train=reserve, reserve=reserve, fresh=lambda: victim, fit=_no_training, seed=seed)

    return build
