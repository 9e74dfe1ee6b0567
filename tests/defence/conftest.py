"""What a defender of a chat model has."""

from __future__ import annotations

import copy

import pytest

from testbed.api import DefenderResources, Splits
from testbed.language import ChatVictim
from tests.defence.chat_defender import moved, tuned


@pytest.fixture
def resources(toy_data: Splits, chat: ChatVictim) -> DefenderResources:
    """Rows, training, and a reference whose aligned model is a little away from the base."""
    facts = (toy_data.task, toy_data.pools["shots"], toy_data.reserve, lambda: copy.deepcopy(chat), tuned, 5)
    return DefenderResources(*facts, reference=(chat, moved(chat, 1)))
