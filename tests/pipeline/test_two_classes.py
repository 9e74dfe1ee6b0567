"""Two classes, where an attack on one of them leaves no class to be a near miss."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testbed.api import Attack, Invalid, Splits
from testbed.attack.backdoor import Backdoor
from testbed.attack.label import SourceSpecific
from testbed.files import read_json
from testbed.trigger.patch import Patch
from tests.attack.test_sleeper_agent import ATTACK

from .conftest import World

SOURCE_SPECIFIC = Backdoor(trigger=Patch(), label=SourceSpecific((1,)), poison_rate=0.1, target_label=0)
SLEEPER_AGENT = replace(ATTACK, poison_rate=0.1, iterations=1, source_label=1, target_label=0)


@pytest.fixture
def two(splits: Splits) -> Splits:
    parts = {name: getattr(splits, name) for name in ("train", "test", "validation", "reserve")}
    fewer = {name: part.take((part.labels < 2).nonzero().flatten()) for name, part in parts.items()}
    return replace(splits, task=replace(splits.task, classes=("0", "1")), **fewer)


@pytest.mark.parametrize("attack", [SOURCE_SPECIFIC, SLEEPER_AGENT], ids=["source_specific", "sleeper_agent"])
def test_success_alone_is_examined_measured_and_shown(world: World, two: Splits, attack: Attack) -> None:
    folder = world(data=two, attack=attack)
    result = read_json(folder / "result.json")
    assert result["status"] == "done" and result["counts"]["attack_success_rate"] == int((two.test.labels == 1).sum())
    assert not [name for name in result["measures"] if "sources" in name]
    assert [path.name for path in (folder / "figures").iterdir()] == ["success.png"]


@pytest.mark.parametrize(
    ("attack", "said"), [(SOURCE_SPECIFIC, r"attack\.label\.source_labels=\[1\]"), (SLEEPER_AGENT, r"attack\.source_label=1")]
)
def test_a_test_without_the_source_class_is_refused(world: World, two: Splits, attack: Attack, said: str) -> None:
    with pytest.raises(Invalid, match=f"{said}: no test row is of"):
        world(data=replace(two, test=two.test.take((two.test.labels == 0).nonzero().flatten())), attack=attack)
