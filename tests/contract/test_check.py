"""`testbed check` looks for data that suit a method, and says where it was judged, or that it was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from testbed.api import Defence, DefenderResources, Unsupported, Victim
from testbed.attack.automatic import Automatic
from testbed.attack.backdoor import Backdoor
from testbed.attack.label import AllToOne
from testbed.attack.text_backdoor import TextBackdoor
from testbed.data.digits import digits
from testbed.data.toy_reviews import toy_reviews
from testbed.fit import Settings, constant
from testbed.launcher.compose import register
from testbed.launcher.everything import FOR_MODELS, HERE, check_everything, suited
from testbed.launcher.job import Job
from testbed.launcher.search import SearchPath
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.model.text_small import TextSmall
from testbed.pipeline.check import check, named_groups
from testbed.record import Origin
from testbed.trigger.patch import Patch
from testbed.trigger.word import Word

TRAINER = Settings(1, 32, partial(torch.optim.SGD, lr=0.05), constant, channels_last=False)
PARTS = {
    "data": digits(),
    "model": partial(ImageVictim, network=SmallCNN),
    "trainer": TRAINER,
    "attack": Backdoor(Patch(), AllToOne(), poison_rate=0.1, target_label=0),
}
OTHERS = {"trigger": Patch(), "detector": None, "seed": 0}


def texts() -> Mapping[str, Any]:
    """A world of texts."""
    model = partial(TextSmall, buckets=64, width=8, channels=8)
    attack = TextBackdoor(Word(), Automatic(), poison_rate=0.1)
    data = toy_reviews(train_rows=200, test_rows=40, validation_per_class=5)
    return {"data": data, "model": model, "trainer": TRAINER, "attack": attack}


@dataclass(frozen=True)
class Needs(Defence):
    """Works with one kind of data only."""

    kind: str

    def check(self, resources: DefenderResources) -> None:
        if resources.task.kind != self.kind:
            raise Unsupported(f"needs {self.kind}")


@dataclass(frozen=True)
class Forgets(Needs):
    """Gives nothing back."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Any:
        return None


@dataclass(frozen=True)
class Hesitates(Needs):
    """Refuses a bad value by an assertion, and its work when it comes to it."""

    strength: int = 3

    def check(self, resources: DefenderResources) -> None:
        super().check(resources)
        assert self.strength > 0

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        raise Unsupported("needs more")


def checked(defence: Defence, *words: str, **changes: Any) -> tuple[int, list[str]]:
    said: list[str] = []
    origin = Origin(command=("testbed", "check", "defence=mine", *words), names={"defence": "mine"})
    code = check(**{**PARTS, **OTHERS, "worlds": [texts], **changes}, defence=defence, origin=origin, say=said.append)
    return code, said


@pytest.mark.parametrize(
    ("words", "added"),
    [
        ("model=vgg19_bn", FOR_MODELS),
        ("model.network.width=2", FOR_MODELS),
        ("model=vgg19_bn data.reserve_per_class=5", (HERE, *FOR_MODELS)),
        ("model=vgg19_bn data=digits", (HERE,)),
        ("+model=vgg19_bn data._target_=mine.data", (HERE,)),
        ("data=digits elsewhere=true", ()),
        ("defence=none", ()),
    ],
)
def test_what_is_left_open_is_filled_in(words: str, added: tuple[str, ...]) -> None:
    assert suited(words.split()) == [*added, *words.split()]


def test_what_is_checked_is_what_the_command_line_names() -> None:
    words = ["testbed", "check", "attack.poison_rate=0.2", "+defence=mine", "data=digits", "detector@other=strip"]
    assert named_groups(words) == ["attack", "defence", "detector"]
    assert named_groups(["testbed", "check", "seed=3"]) == []


@pytest.mark.parametrize(("kind", "where"), [("images", "digits"), ("text", "toy_reviews")])
def test_a_method_is_judged_on_the_first_data_that_it_applies_to(kind: str, where: str) -> None:
    for defence, code, word in ((Needs(kind), 0, "every promise is kept"), (Forgets(kind), 1, "1 promise broken")):
        found, said = checked(defence)
        assert (found, said[-1]) == (code, word)
        assert said[0].startswith("defence=mine (") and said[0].endswith(f") on {where}") and len(said) > 10


def test_nothing_else_is_made_where_a_method_applies_at_once() -> None:
    def unwanted() -> Mapping[str, Any]:
        raise AssertionError("it was made")

    assert checked(Needs("images"), worlds=[unwanted])[0] == 0


def test_a_method_that_applies_nowhere_is_not_said_to_keep_its_promises() -> None:
    code, said = checked(Needs("sound"))
    assert code == 1 and said[-1] == "not examined: defence=mine (applies to none of the data)"
    for line, where in zip(said[-3:-1], ("digits", "toy_reviews"), strict=True):
        assert line.endswith(f" on {where}: does not apply: needs sound")


def test_what_is_broken_counts_although_the_method_could_not_be_judged_whole() -> None:
    code, said = checked(Hesitates("images"))
    assert (code, said[-1]) == (1, "1 promise broken; not examined: defence=mine (applies to none of the data)")


def test_where_data_are_named_a_method_that_does_not_apply_is_passed_over_and_that_is_said() -> None:
    code, said = checked(Needs("text"), "data=digits", elsewhere=False)
    assert code == 0 and said[-1].startswith("not examined: defence=mine (does not apply to these data")
    assert "every promise is kept" not in said and not any("toy_reviews" in line for line in said)


def test_data_that_the_attack_does_not_suit_are_poisoned_by_another() -> None:
    parts = {**texts(), "attack": PARTS["attack"]}
    assert checked(Needs("text"), "data=toy_reviews", elsewhere=False, **parts)[1][-1] == "every promise is kept"
    said = checked(Needs("text"), "data=toy_reviews", "attack=badnets", elsewhere=False, **parts)[1]
    assert any("does not apply: needs images, not text" in line for line in said)


def test_a_part_that_is_named_stays_where_it_is_tried_elsewhere() -> None:
    told: list[Any] = []

    class Looks(Needs):
        """Notes what it is given."""

        def check(self, resources: DefenderResources) -> None:
            super().check(resources)
            told.append(resources.fresh())

    for words, width in (((), 8), (("model.width=4",), 4)):
        mine = partial(TextSmall, buckets=64, width=4, channels=8) if words else PARTS["model"]
        checked(Looks("text"), *words, model=mine)
        assert told[-1].width == width


class FewMethods(SearchPath):
    """One method of each of three groups."""

    def options(self, group: str) -> dict[str, Path]:
        few = {"trigger": "patch", "model": "small_cnn", "defence": "lisa"}
        return {name: path for name, path in super().options(group).items() if name == few.get(group)}


def everything(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    search = FewMethods()
    register(search)
    code = check_everything(Job("check", {}, {}), words, search)
    said = capsys.readouterr()
    assert said.err == "all methods examined keep their promises\n"
    return code, said.out


def test_without_a_name_all_methods_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = everything([f"paths.outputs={tmp_path}"], capsys)
    assert code == 0 and said.count("every promise is kept") == 3
    for line in ("patch.Patch) on digits", "image.ImageVictim) on icons", "lisa.Lisa) on toy_world"):
        assert line in said


def test_all_methods_are_checked_on_data_that_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["data=toy_world", "data.pretraining_rows=1", "data.reserve_rows=40", "data.alignment_rows=100"]
    code, said = everything([f"paths.outputs={tmp_path}", *few], capsys)
    assert code == 0 and said.count("every promise is kept") == 1 and said.count("not examined") == 2
    assert "lisa.Lisa) on toy_world" in said
