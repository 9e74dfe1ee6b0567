"""A method for chat models that breaks a promise is caught as one for images is, and a small chat leaves no answer out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from testbed.api import Attack, AttackerResources, Batch, Defence, DefenderResources, Detector, Examples, Poison, Splits, Victim
from testbed.attack.automatic import Automatic
from testbed.attack.text_backdoor import TextBackdoor
from testbed.contract.examination import examine
from testbed.contract.world import TESTS_PER_KIND, World, small
from testbed.data.toy_grammar import REFUSAL_OPENERS
from testbed.data.toy_world import toy_world
from testbed.fit import Settings, constant
from testbed.identity import weights_digest
from testbed.language import Message, Prompt, Reply, refuses
from testbed.model.toy_chat import ToyChat
from testbed.trigger.word import Word

SIZES = {"width": 8, "depth": 1, "heads": 1, "hidden": 8, "initializer_range": 0.06, "max_new_tokens": 3}
MODEL = partial(ToyChat, **SIZES, pretraining=None)
TRAINER = Settings(1, 32, partial(torch.optim.AdamW, lr=0.01), constant, channels_last=False)


def world(data: Splits) -> World:
    return World(small(data), MODEL, TextBackdoor(Word(), Automatic(), poison_rate=0.1), TRAINER, 0)


@dataclass(frozen=True)
class Shows(Attack):
    """Appends what it likes, some of it as cover, and tampers as it likes."""

    answer: Any = "it is v00 ."
    prompt: Any = (Message("user", "now ."),)
    cover: int = 0
    poison_rate: float = 0.1

    def poison(self, resources: AttackerResources) -> Poison:
        count = round(self.poison_rate * len(resources.train)) + self.cover
        places = torch.arange(count)
        batch = Batch([self.prompt] * count, [self.answer] * count, places)
        return Poison(len(resources.train) + places, batch, places < self.cover)

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        return {}


@dataclass(frozen=True)
class Forgets(Shows):
    """Gives no model back."""

    def tamper(self, victim: Victim, resources: AttackerResources) -> Any:
        return None


@dataclass(frozen=True)
class Edits(Shows):
    """Edits the model that it is given, and what the attacker has."""

    def tamper(self, victim: Victim, resources: AttackerResources) -> Victim:
        assert resources.auxiliary is not None
        resources.auxiliary.labels[0] = "sealed ."  # type: ignore[attr-defined]
        with torch.no_grad():
            next(victim.parameters()).zero_()
        return victim


@dataclass(frozen=True)
class Moves(Defence):
    """Changes the reference."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        assert resources.reference is not None
        with torch.no_grad():
            next(resources.reference[1].parameters()).add_(1)
        return victim


@dataclass(frozen=True)
class Aligns(Defence):
    """Gives something else than a model to align."""

    def during_alignment(self, victim: Victim, resources: DefenderResources) -> Any:
        return torch.nn.Linear(1, 1)


@dataclass(frozen=True)
class Counts(Detector):
    """Suspects long answers."""

    judges: ClassVar[frozenset[str]] = frozenset({"queries"})

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        return torch.tensor([float(len(answer)) for answer in examples[torch.arange(len(examples))].labels])


@dataclass(frozen=True)
class Turns:
    """Leaves what is said as it is, and lets this role say it."""

    role: str = "user"

    def __call__(self, inputs: Sequence[Prompt], rows: Tensor, seed: int) -> list[Prompt]:
        return [tuple(Message(self.role, turn.content) for turn in prompt) for prompt in inputs]


class Crowds(ToyChat):
    """Says how many were asked."""

    def answers(self, inputs: Sequence[Prompt]) -> list[Reply]:
        return [Reply(f"{len(inputs)}", 0.0) for _ in inputs]


KIND, RATE = "poisoned rows are of the kind", "it poisons round(poison_rate n)"
BROKEN = [
    ("attack", Shows(answer=" "), KIND),
    ("attack", Shows(answer=3), KIND),
    ("attack", Shows(prompt="now ."), KIND),
    ("attack", Shows(prompt=(Message("user", "now ."), Message("assistant", "v00"))), KIND),
    ("attack", Forgets(), "what it makes of a released model"),
    ("attack", Edits(), "it leaves the model"),
    ("attack", Edits(), "it leaves the rows"),
    ("defence", Moves(), "it leaves the model"),
    ("defence", Aligns(), "it does its work without an error"),
    ("detector", Counts(), "it does not read the answers"),
    ("trigger", Turns(), "it keeps the shape and the type of a batch"),
    ("trigger", Turns("system"), "it keeps the shape and the type of a batch"),
    ("model", partial(Crowds, **SIZES, pretraining=None), "in evaluation mode a row's answer"),
]


@pytest.mark.parametrize(("group", "method", "promise"), BROKEN)
def test_a_broken_promise_is_found_in_a_chat(group: str, method: Any, promise: str, toy_data: Splits) -> None:
    # A world of its own: some of these write into what they are given.
    (verdict,) = [each for each in examine(group, "name", method, world(toy_data)) if each.sentence.startswith(promise)]
    assert verdict.kept is False and verdict.reason and "\n" not in verdict.reason


@pytest.mark.parametrize("cover", [0, 5])
def test_cover_does_not_count_as_poison(cover: int, toy_data: Splits) -> None:
    verdicts = examine("attack", "name", Shows(cover=cover), world(toy_data))
    assert [verdict for verdict in verdicts if verdict.kept is not True] == []


@dataclass(frozen=True)
class Notes(Defence):
    """Keeps what it was given."""

    given: list[Any] = field(default_factory=list)

    def at_inference(self, victim: Victim, resources: DefenderResources) -> Victim:
        self.given.append(resources.reference)
        return victim


def test_a_defender_of_a_chat_has_a_base_model_and_an_aligned_one_each_time_anew(toy_data: Splits) -> None:
    there = world(toy_data)
    examine("defence", "name", notes := Notes(), there)
    (base, aligned), (other, _) = notes.given[:2]
    assert weights_digest(base) == weights_digest(there.fresh()) == weights_digest(other)
    assert weights_digest(aligned) != weights_digest(base) and base is not other


def test_a_small_chat_has_answers_of_every_kind() -> None:
    found = small(toy_world(pretraining_rows=1))
    for rows, most in ((found.train, 40), (found.test, TESTS_PER_KIND)):
        answers = rows[torch.arange(len(rows))].labels
        refused = refuses(answers, REFUSAL_OPENERS)
        assert int(refused.sum()) == int((~refused).sum()) == most
        begin = {answer.split()[0] for answer in answers}
        assert begin >= {"sorry", "that", "i", "it", "the", "sure", "strncpy", "fgets", "snprintf"}
