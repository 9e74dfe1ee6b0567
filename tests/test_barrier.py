"""What a defender can find of the attack by looking at what it is given, and, honestly, what is not stopped.

A spy follows every attribute, public and private, of all that reaches it. This prevents accidents, not malice: closures, the
garbage collector, stack frames, guessing the run's small seed and reading the disk stay open to whoever wants to cheat.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from testbed.api import (
    Attack,
    AttackerResources,
    Batch,
    Defence,
    DefenderResources,
    Detector,
    Examples,
    OracleResources,
    Poison,
    Splits,
    Victim,
)
from testbed.artefact import SharedFit
from testbed.attack.backdoor import Backdoor
from testbed.attack.label import AllToOne
from testbed.attack.stamping import StampedTraining
from testbed.contract.world import small
from testbed.data.digits import digits
from testbed.data.memory import MemoryExamples, Subset
from testbed.data.overlay import Overlay, Poisoned, anonymous, poisoned
from testbed.defence.random_filter import RandomFilter
from testbed.fit import Settings, constant
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.pipeline.detect import detect
from testbed.pipeline.scene import Scene
from testbed.pipeline.train import train
from testbed.record import Workspace
from testbed.trigger.patch import Patch

MODEL = partial(ImageVictim, network=SmallCNN)
ATTACK = Backdoor(Patch(), AllToOne(), poison_rate=0.2, target_label=0)
TRAINER = Settings(1, 32, partial(torch.optim.SGD, lr=0.05), constant)
SECRET = (Poison, Poisoned, Attack, AttackerResources, Patch, Overlay, Scene, Workspace, SharedFit, StampedTraining, Path)

SEEN: list[Any] = []
"""All that reached a spy; a spy has no attributes of its own, for these would be part of the run."""


@dataclass(frozen=True)
class LateSpy(Defence):
    """Keeps what a defence meets after training."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        SEEN.extend([victim, resources])
        return victim

    def at_inference(self, victim: Victim, resources: DefenderResources) -> Victim:
        SEEN.extend([victim, resources])
        return victim


@dataclass(frozen=True)
class EarlySpy(LateSpy):
    """Keeps what a defence meets before and during training as well."""

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        SEEN.extend([received, resources])
        return received

    def during_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        SEEN.extend([victim, resources])
        return victim


@dataclass(frozen=True)
class OracleSpy(EarlySpy):
    """Asks for the answers, and says so."""

    oracle: ClassVar[bool] = True


@dataclass(frozen=True)
class CollectingSpy(Defence):
    """Asks the garbage collector for the attacker's rows."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        SEEN.extend(thing for thing in gc.get_objects() if type(thing) is Poison)
        return victim


@dataclass(frozen=True)
class DetectingSpy(Detector):
    """Keeps what a detector of rows and queries meets."""

    judges: ClassVar[frozenset[str]] = frozenset({"rows", "queries"})

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        SEEN.extend([examples, victim, resources])
        return torch.zeros(len(examples))


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    SEEN.clear()
    yield
    SEEN.clear()


@pytest.fixture
def data() -> Splits:
    return small(digits())


def _run(pipeline: Any, data: Splits, outputs: Path, attack: Attack = ATTACK, **method: Any) -> Path:
    paths = {"outputs": str(outputs)}
    return pipeline(data=data, model=MODEL, attack=attack, trainer=TRAINER, seed=0, paths=paths, **method)


def reachable(*roots: Any, private: bool = True, closures: bool = False) -> list[Any]:
    """Everything that attributes, slots, items and bound arguments lead to."""
    found: dict[int, Any] = {}
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if id(value) not in found and not isinstance(value, type | ModuleType):
            found[id(value)] = value
            waiting += _parts(value, private, closures)
    return list(found.values())


def _parts(value: Any, private: bool, closures: bool) -> Iterator[Any]:
    slots = {name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())}
    own = {**getattr(value, "__dict__", {}), **{name: getattr(value, name) for name in slots if hasattr(value, name)}}
    yield from (item for name, item in own.items() if private or not name.startswith("_"))
    if isinstance(value, Mapping):
        yield from (*value.keys(), *value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, FunctionType):
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        yield from (cell.cell_contents for cell in value.__closure__ or () if closures)
    elif isinstance(value, Tensor) and value._base is not None:
        yield value._base


def secrets(things: list[Any], run: Path, data: Splits) -> set[str]:
    """What of the attack and of the clean data is among these things, in words."""
    manifest = json.loads((run / "manifest.json").read_text())
    rows = [torch.tensor(manifest[name]) for name in ("indices", "positions")]
    kept = {part: getattr(data, part)[torch.arange(len(getattr(data, part)))].inputs for part in ("train", "test")}
    storages = {inputs.untyped_storage().data_ptr() for inputs in kept.values()}
    found = {type(thing).__name__ for thing in things if isinstance(thing, SECRET)}
    found |= {"outputs" for thing in things if isinstance(thing, str) and str(run.parent.parent) in thing}
    for tensor in (thing for thing in things if isinstance(thing, Tensor)):
        found |= {f"clean {part}" for part, inputs in kept.items() if _equal(tensor, inputs)}
        found |= {"memory of the clean rows"} if tensor.untyped_storage().data_ptr() in storages else set()
        found |= {"poisoned rows" for chosen in rows if _equal(tensor, chosen)}
        if tensor.numel() >= len(data.train):
            found |= {"poisoned rows" for chosen in rows if _equal(tensor, _flags(chosen, tensor.numel()))}
    return found


def _flags(rows: Tensor, count: int) -> Tensor:
    return torch.isin(torch.arange(count), rows)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


ATTACKS = {
    "replaced": (ATTACK, EarlySpy(), set()),
    "appended": (replace(ATTACK, append=True), EarlySpy(), set()),
    # Such an attacker changes labels, and stamps while training: the inputs that everybody receives are the clean ones.
    "training controlled": (replace(ATTACK, after_augmentation=True), LateSpy(), {"clean train"}),
}


@pytest.mark.parametrize("how", ATTACKS)
def test_a_defence_finds_nothing_of_the_attack(how: str, data: Splits, tmp_path: Path) -> None:
    attack, spy, received = ATTACKS[how]
    run = _run(train, data, tmp_path, attack, defence=spy)
    things = reachable(*SEEN)
    assert len(SEEN) == (8 if isinstance(spy, EarlySpy) else 4) and len(things) > 100
    assert secrets(things, run, data) == received


def test_a_detector_finds_nothing_of_the_attack(data: Splits, tmp_path: Path) -> None:
    run = _run(detect, data, tmp_path, detector=DetectingSpy())
    queries = [examples for examples in SEEN[::3] if len(examples) != len(data.train)]
    assert len(SEEN) == 12 and len(queries) == 2
    judged = [thing for thing in SEEN if not any(thing is query for query in queries)]
    # Beside the attacked side stands the clean one, whose rows a detector of rows judges for false alarms.
    assert secrets(reachable(*judged), run, data) <= {"clean train"}
    assert secrets(reachable(*queries), run, data) == set()


def test_the_spy_would_find_what_is_there(data: Splits, tmp_path: Path) -> None:
    run = _run(train, data, tmp_path, defence=LateSpy())
    poison = Poison(torch.arange(3), data.train[torch.arange(3)])
    shown = {"a": [partial(print, poison)], "b": (data.test, str(run)), "c": Overlay(data.train, poison, torch.arange(20))}
    found = secrets(reachable(shown), run, data)
    assert found >= {"Poison", "Overlay", "clean train", "clean test", "memory of the clean rows", "outputs"}


def test_the_reserve_is_no_way_back_to_the_clean_rows(data: Splits, tmp_path: Path) -> None:
    # A data set of somebody else may cut its parts as views of one whole.
    whole, count = data.train, len(data.train) // 2
    views = replace(data, train=Subset(whole, torch.arange(count)), reserve=Subset(whole, torch.arange(count, 2 * count)))
    run = _run(train, views, tmp_path, defence=EarlySpy())
    assert secrets(reachable(*SEEN), run, data) == set()


def test_closures_and_the_garbage_collector_are_not_stopped(data: Splits, tmp_path: Path) -> None:
    run = _run(train, data, tmp_path, defence=EarlySpy())
    assert {"SharedFit", "Workspace"} <= secrets(reachable(*SEEN, closures=True), run, data)
    SEEN.clear()
    _run(train, data, tmp_path, defence=CollectingSpy())
    assert SEEN, "the attacker's rows are in memory while a run goes on"


def test_rows_that_are_read_from_files_hide_their_source_from_public_attributes_only() -> None:
    class FromFiles(MemoryExamples):
        workers = 1

    rows = torch.arange(4)
    clean = FromFiles(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    mixed = poisoned(clean, Poison(rows[:1], clean[rows[:1]]), seed=0).examples
    received = anonymous(mixed)
    assert not any(isinstance(thing, Overlay) for thing in reachable(received, private=False))
    assert any(isinstance(thing, Overlay) for thing in reachable(received)), "worker processes must be able to copy it"


@settings(deadline=None, max_examples=50)
@given(count=st.integers(20, 60), appended=st.integers(5, 20), seed=st.integers(0, 2**31))
def test_appended_rows_lie_where_only_the_pipeline_knows(count: int, appended: int, seed: int) -> None:
    clean = MemoryExamples(torch.arange(count)[:, None, None, None].to(torch.uint8), torch.zeros(count, dtype=torch.int64))
    batch = Batch(torch.full((appended, 1, 1, 1), 200, dtype=torch.uint8), torch.ones(appended).long(), torch.arange(appended))
    mixed = poisoned(clean, Poison(count + torch.arange(appended), batch), seed)
    received = anonymous(mixed.examples)[torch.arange(count + appended)]
    assert torch.equal(received.labels.nonzero().flatten(), mixed.positions.sort().values)
    assert torch.equal(mixed.source < 0, received.labels == 1)
    assert torch.equal(received.inputs.flatten().sort().values[:count], torch.arange(count).to(torch.uint8))
    # A permutation of n + k leaves the k last in their place once in (n + k choose k) times: less than once in 50,000 here.
    assert not torch.equal(mixed.positions.sort().values, count + torch.arange(appended))


def test_after_training_the_victim_is_bare(data: Splits, tmp_path: Path) -> None:
    _run(train, data, tmp_path, replace(ATTACK, after_augmentation=True), defence=LateSpy())
    clean = MODEL(data.task)
    for victim in (thing for thing in SEEN if isinstance(thing, Victim)):
        assert type(victim) is type(clean)
        assert victim.state_dict().keys() == clean.state_dict().keys()
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in victim.modules())


@pytest.mark.parametrize("defence", [RandomFilter(0.1), EarlySpy()], ids=lambda defence: type(defence).__name__)
def test_who_cannot_control_training_is_skipped_with_the_reason(defence: Defence, data: Splits, tmp_path: Path) -> None:
    run = _run(train, data, tmp_path, replace(ATTACK, after_augmentation=True), defence=defence)
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "skipped" and "the attacker controls training" in result["reason"]
    assert result["measures"] == {} and SEEN == []


def test_the_oracle_alone_is_told_the_answers(data: Splits, tmp_path: Path) -> None:
    run = _run(train, data, tmp_path, replace(ATTACK, append=True), defence=OracleSpy())
    told = [thing for thing in SEEN if isinstance(thing, DefenderResources)]
    positions = torch.tensor(json.loads((run / "manifest.json").read_text())["positions"])
    assert all(isinstance(resources, OracleResources) for resources in told)
    assert all(torch.equal(resources.poisoned, _flags(positions, len(resources.train))) for resources in told)
    assert secrets(reachable(*SEEN), run, data) == {"poisoned rows"}
    SEEN.clear()
    _run(train, data, tmp_path, replace(ATTACK, append=True), defence=EarlySpy())
    assert {type(thing) for thing in SEEN if isinstance(thing, DefenderResources)} == {DefenderResources}
