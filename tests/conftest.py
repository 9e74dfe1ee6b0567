"""A toy world and an untrained chat model, small enough for tests of mathematics."""

from __future__ import annotations

import copy

import pytest
import torch

from testbed.api import Splits
from testbed.language import ChatVictim


@pytest.fixture(scope="session")
def toy_data() -> Splits:
    """A toy world with few rows."""
    from testbed.data.toy_world import toy_world

    return toy_world(pretraining_rows=256, alignment_rows=64, reserve_rows=48, shots=40, benign_rows=40)


@pytest.fixture(scope="session")
def _untrained(toy_data: Splits) -> ChatVictim:
    from testbed.model.toy_chat import ToyChat

    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"width": 32, "depth": 2, "heads": 2, "hidden": 48, "initializer_range": 0.06}
        return ToyChat(toy_data.task, **sizes, max_new_tokens=8, pretraining=None)  # type: ignore[arg-type]


@pytest.fixture
def chat(_untrained: ChatVictim) -> ChatVictim:
    """An untrained chat model of two layers, a copy for each test."""
    return copy.deepcopy(_untrained)
