"""A method that breaks a promise is caught, by the promise that it breaks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from testbed.api import (
    Attack,
    AttackerResources,
    Batch,
    Defence,
    DefenderResources,
    Detector,
    Examples,
    Inspection,
    ModelDetector,
    Poison,
    Unsupported,
    Victim,
)
from testbed.attack.backdoor import Backdoor
from testbed.attack.label import AllToOne
from testbed.contract.examination import examine
from testbed.contract.world import EPOCHS, World, shortened, small
from testbed.data.digits import digits
from testbed.features import select
from testbed.fit import Settings, constant
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.model.torchvision import TorchvisionVictim
from testbed.model.vgg19_bn import VGG19BN
from testbed.trigger.patch import Patch

MODEL = partial(ImageVictim, network=SmallCNN)
ATTACK = Backdoor(Patch(), AllToOne(), poison_rate=0.1, target_label=0)
TRAINER = Settings(1, 32, partial(torch.optim.SGD, lr=0.05), constant)


@pytest.fixture(scope="module")
def world() -> World:
    return World(small(digits()), MODEL, ATTACK, TRAINER, 0)


@dataclass(frozen=True)
class Rewrites(Defence):
    """Writes into the rows that it is given."""

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        batch = resources.reserve[torch.arange(4)]
        batch.inputs.zero_()
        return received


@dataclass(frozen=True)
class Meddles(Defence):
    """Changes the model that it is given instead of a copy, and leaves it training."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        with torch.no_grad():
            next(victim.parameters()).add_(1)
        return victim.train()


@dataclass(frozen=True)
class Draws(Defence):
    """Draws from the global generator."""

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        return select(received, torch.randperm(len(received))[:20])


@dataclass(frozen=True)
class Peeks(Defence):
    """Reads the attacker's record where it is not hidden."""

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        poison = getattr(received, "poison", None)
        return received if poison is None else select(received, torch.arange(20))


@dataclass(frozen=True)
class Forgets(Defence):
    """Gives nothing back."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Any:
        return None


@dataclass(frozen=True)
class Asks(Defence):
    """Wants the answers, and does not say so in its name."""

    oracle: ClassVar[bool] = True


class Hides(Defence):
    """Does not keep its parameter."""

    def __init__(self, strength: float) -> None:
        self.kept = strength


@dataclass(frozen=True)
class Crashes(Defence):
    """Refuses a bad value by an assertion."""

    epochs: int = 3

    def check(self, resources: DefenderResources) -> None:
        assert self.epochs > 0


class Silent(Defence):
    oracle: ClassVar[bool] = False


@dataclass(frozen=True)
class Declines(Defence):
    """Works with words only."""

    def check(self, resources: DefenderResources) -> None:
        raise Unsupported("needs words")


@dataclass(frozen=True)
class Lasts(Defence):
    """Has lengths, and a number that is none."""

    epochs: int
    warm_up_epochs: int
    step: int


@dataclass(frozen=True)
class ReadsAnswers(Detector):
    """Suspects queries by their labels."""

    judges: ClassVar[frozenset[str]] = frozenset({"queries"})

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        return examples[torch.arange(len(examples))].labels.float()


@dataclass(frozen=True)
class Judges(Detector):
    """Judges nothing that there is, by a score too few and a rule of numbers."""

    judges: ClassVar[frozenset[str]] = frozenset({"rows", "rumours"})

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        return torch.full((len(examples) - 1,), torch.inf)

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        return scores


@dataclass(frozen=True)
class Points(ModelDetector):
    """Points at a class that does not exist."""

    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        return Inspection(torch.zeros(10), (10,))


@dataclass(frozen=True)
class Overdoes(Attack):
    """Names what rows it likes, whatever its rate, and examines rows that are the target already."""

    rows: tuple[int, ...] = (0, 1, 2)
    poison_rate: float = 0.1

    def poison(self, resources: AttackerResources) -> Poison:
        return Poison(torch.tensor(self.rows), resources.train[torch.arange(len(self.rows))])

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        rows = torch.arange(len(test))
        return {"success": Poison(rows, Batch(test[rows].inputs, torch.zeros_like(rows), rows))}


@dataclass(frozen=True)
class Neighbours:
    """Stamps what it sees in the rest of the batch, into its argument."""

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        inputs[..., 0, 0] = inputs.amax() - torch.arange(len(inputs))[:, None].to(inputs)
        return inputs


@dataclass(frozen=True)
class Truncates:
    """Cuts fractions off where a stored image would be rounded, and changes the type."""

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        return inputs.float() * 0.7 if inputs.is_floating_point() else (inputs.float() * 0.7).to(torch.int16)


class Whitens(ImageVictim):
    """Looks at the other rows of a batch, and forgets the gradient."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits = super().forward(inputs.detach())
        return logits - logits.mean(0)


BROKEN = [
    ("defence", Rewrites(), "it leaves the rows"),
    ("defence", Meddles(), "it leaves the model"),
    ("defence", Draws(), "the same call gives the same result"),
    ("defence", Draws(), "it leaves the global random states"),
    ("defence", Peeks(), "it sees rows only"),
    ("defence", Forgets(), "each stage returns what the next one reads"),
    ("defence", Asks(), "it is told the answers only if"),
    ("defence", Hides(0.5), "its parameters can be read back"),
    ("defence", Crashes(), "it refuses impossible values"),
    ("defence", Silent(), "it has a docstring"),
    ("defence", Patch(), "it is a testbed.api.Defence"),
    ("detector", ReadsAnswers(), "it does not read the answers to queries"),
    ("detector", Judges(), "it judges rows, queries or both"),
    ("detector", Judges(), "it gives each row or query one finite score"),
    ("detector", Judges(), "its own rule says yes or no"),
    ("detector", Points(), "it gives each class, or the whole model"),
    ("attack", Overdoes((1, 2, 1)), "poisoned rows are named once each"),
    ("attack", Overdoes((1, 2, 300)), "poisoned rows are named once each"),
    ("attack", Overdoes((-1, 2, 3)), "poisoned rows are named once each"),
    ("attack", Overdoes(), "it poisons round(poison_rate n) of n rows"),
    ("attack", Overdoes(), "'success' shows no row whose true answer"),
    ("trigger", Neighbours(), "it leaves the rows"),
    ("trigger", Neighbours(), "what becomes of a row depends on the seed and the row"),
    ("trigger", Truncates(), "it keeps the shape and the type"),
    ("trigger", Truncates(), "stored and float32 images become the same"),
]


@pytest.mark.parametrize(("group", "method", "promise"), BROKEN)
def test_a_broken_promise_is_found(group: str, method: Any, promise: str) -> None:
    # A world of its own: some of these write into what they are given.
    verdicts = examine(group, "name", method, World(small(digits()), MODEL, ATTACK, TRAINER, 0))
    (verdict,) = [verdict for verdict in verdicts if verdict.sentence.startswith(promise)]
    assert verdict.kept is False and verdict.reason and "\n" not in verdict.reason


@pytest.mark.parametrize("promise", ["in evaluation mode a row's answer", "the gradient reaches the image"])
def test_a_model_that_breaks_a_promise_is_found(promise: str, world: World) -> None:
    verdicts = examine("model", "name", partial(Whitens, network=SmallCNN), world)
    assert [verdict.kept for verdict in verdicts if verdict.sentence.startswith(promise)] == [False]


def test_a_method_that_does_not_apply_says_so_and_is_not_blamed(world: World) -> None:
    verdicts = examine("defence", "name", Declines(), world)
    assert [verdict.kept for verdict in verdicts] == [True, True, None] and verdicts[-1].reason == "needs words"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (partial(ImageVictim, network=VGG19BN), "five poolings need 32 pixels"),
        (partial(TorchvisionVictim, name="alexnet"), "name=alexnet: the model cannot read images of 1x16x16"),
    ],
)
def test_a_model_that_these_data_do_not_suit_is_not_blamed(world: World, model: Any, reason: str) -> None:
    verdicts = examine("model", "name", model, world)
    assert [verdict.kept for verdict in verdicts] == [True, True, None] and reason in verdicts[-1].reason


class Misbuilt(SmallCNN):
    """Fails on any image."""

    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("shapes cannot be multiplied")


def test_a_network_that_fails_is_blamed(world: World) -> None:
    assert examine("model", "name", partial(ImageVictim, network=Misbuilt), world)[-1].kept is False


def test_long_work_is_cut_short_and_nothing_else_is_changed() -> None:
    assert shortened(Lasts(epochs=100, warm_up_epochs=1, step=7)) == Lasts(epochs=EPOCHS, warm_up_epochs=1, step=7)
