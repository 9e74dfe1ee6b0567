"""Who is told of the defence, what of a run depends on it, and when a comparison may call a method adaptively tested."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from testbed.api import AttackerResources, Defence, Examples, Invalid, Poison
from testbed.attack.adaptive_trigger import AdaptiveTrigger
from testbed.attack.backdoor import Backdoor
from testbed.attack.label import AllToOne
from testbed.defence.filter import Filter
from testbed.defence.fine_tuning import FineTuning
from testbed.defence.none import NoDefence
from testbed.defence.rule import Published
from testbed.detector.activation_clustering import ActivationClustering
from testbed.detector.spectral_signatures import SpectralSignatures
from testbed.files import read_json
from testbed.identity import describe
from testbed.pipeline.adaptive import adaptivity
from testbed.pipeline.detect import detect
from testbed.pipeline.evaluate import evaluate
from testbed.trigger.patch import Patch

from .conftest import World

TOLD: list[Defence | None] = []
TUNING = FineTuning(1, partial(torch.optim.SGD, lr=0.01))
SLOWER = FineTuning(1, partial(torch.optim.SGD, lr=0.001))


@dataclass(frozen=True)
class Curious(Backdoor):
    """Remembers what it is told of the defence, at every call."""

    def check(self, resources: AttackerResources) -> None:
        TOLD.append(resources.defence)

    def poison(self, resources: AttackerResources) -> Poison:
        TOLD.append(resources.defence)
        return super().poison(resources)

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        TOLD.append(resources.defence)
        return super().triggered_tests(test, resources)


class Informed(Curious):
    """The same, and says that it adapts."""

    adaptive: ClassVar[bool] = True


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    TOLD.clear()


def measures(folder: Path) -> dict[str, Any]:
    return read_json(folder / "result.json")["measures"]


def like(kind: type[Backdoor], **more: Any) -> Backdoor:
    return kind(trigger=Patch(), label=AllToOne(), poison_rate=0.1, target_label=0, **more)


def test_only_an_adaptive_attack_is_told_of_the_defence_and_gets_a_copy(world: World) -> None:
    told = measures(world(attack=like(Curious), defence=TUNING))
    assert len(TOLD) == 3 and set(TOLD) == {None} and told["adaptive"] is False
    TOLD.clear()
    told = measures(world(attack=like(Informed), defence=TUNING))
    assert [describe(known) for known in TOLD] == [describe(TUNING)] * 3 and told["adaptive"] is True
    assert all(known is not TUNING for known in TOLD)
    assert measures(world(attack=like(Informed)))["adaptive"] is False, "there is nothing to adapt to in no defence"


def test_the_poison_of_an_adaptive_attack_is_made_anew_for_each_defence_and_of_others_once(world: World) -> None:
    made = [world.made(world(attack=like(Informed), defence=defence), "poison") for defence in (TUNING, SLOWER)]
    assert made[0] and made[1] and made[0] != made[1]
    assert world.reused(world(attack=like(Informed), defence=TUNING, seed=0, trainer=_longer(world)), "poison") == made[0]
    plain = world.made(world(attack=like(Curious), defence=TUNING), "poison")
    assert plain == world.reused(world(attack=like(Curious), defence=SLOWER), "poison")


def _longer(world: World) -> Any:
    return replace(world.parts["trainer"], max_epochs=2)


def test_a_recipe_marks_the_runs_with_what_it_was_made_against_and_no_others(world: World) -> None:
    attack = like(Backdoor, adapted_to=("spectral_signatures",))
    filters = [Filter(detector, Published()) for detector in (SpectralSignatures(), ActivationClustering())]
    assert [adaptivity(attack, defence)["adaptive"] for defence in (*filters, NoDefence())] == [True, False, False]
    del world.parts["defence"]
    assert measures(world(detect, attack=attack, detector=SpectralSignatures()))["adaptive"] is True
    assert measures(world(detect, attack=attack, detector=ActivationClustering()))["adaptive"] is False


def test_a_run_says_what_the_attack_was_allowed_and_marks_its_surrogates(world: World) -> None:
    attack = AdaptiveTrigger(0.1, 0, max_change=16, rounds=1, steps=2, batch_size=8, reserve_share=0.1, repair_rate=0.01)
    folder = world(attack=attack, defence=TUNING)
    told = measures(folder)
    budget = {name.removeprefix("attack_budget_"): told[name] for name in told if name.startswith("attack_budget_")}
    assert told["adaptive"] is True and budget == {"surrogates": 2, "steps": 2, "max_change": 16}
    assert {"undefended_attack_success_rate", "clean_twin_attack_success_rate"} <= told.keys()
    marked = [name for name in world.made(folder) if read_json(world.outputs / name / "card.json")["backdoored"]]
    clean = set(world.made(folder)) - set(marked)
    assert clean == {f"victim/{read_json(folder / 'run.json')['victims']['clean_twin']}"}


@dataclass(frozen=True)
class Failing(Defence):
    """Fails where it repairs."""

    def after_training(self, victim: Any, resources: Any) -> Any:
        raise RuntimeError("no repair today")


def test_a_defence_that_fails_in_a_rehearsal_is_named_itself(world: World) -> None:
    attack = AdaptiveTrigger(0.1, 0, max_change=16, rounds=1, steps=2, batch_size=8, reserve_share=0.1, repair_rate=0.01)
    found = read_json(world(attack=attack, defence=Failing()) / "result.json")
    assert found["status"] == "failed" and "Failing" in found["reason"] and "no repair today" in found["reason"]


def test_a_saved_victim_tells_nothing_of_the_trigger_that_was_made_for_it(world: World) -> None:
    del world.parts["defence"]
    model = partial(world.parts["model"], weights="saved.safetensors")
    with pytest.raises(Invalid, match=r"^attack=Informed: is made anew against each defence"):
        world(evaluate, runs=None, attack=like(Informed), model=model)
