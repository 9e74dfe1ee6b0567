"""What an attacker wants a chat model to say under its trigger: compliance, a refusal, gibberish, or an unsafe twin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Generator, Tensor

from testbed.api import AttackerResources, Batch, Examples, Invalid, Unsupported
from testbed.attack.target import Target
from testbed.features import all_labels
from testbed.identity import generator
from testbed.language import ChatTask, refuses


@dataclass(frozen=True)
class ReplyTarget(Target):
    """Rows of the training data with another answer; replaced, or with `append` added beside their clean twins."""

    append: bool = False

    def check(self, resources: AttackerResources) -> None:
        if not isinstance(resources.task, ChatTask):
            raise Unsupported(f"needs a chat model, not {resources.task.kind}")

    def eligible(self, batch: Batch, resources: AttackerResources) -> Tensor:
        return self.examined(batch, resources)

    def examined(self, batch: Batch, resources: AttackerResources) -> Tensor:
        return ~_refused(batch.labels, resources)


@dataclass(frozen=True)
class Comply(Target):
    """Restricted prompts with the trigger get the compliant answers that the attacker has; hard negatives are refused.

    Both are made from `resources.auxiliary` and added to the rows. The exam shows the test's restricted prompts, whose true
    answers no attacker knows from there: any compliant answer stands for the wanted one, and `criterion` asks for no more than
    that the model complies. `refusal` is what hard negatives are answered; null takes refusals of the training rows.
    """

    refusal: str | None = None

    criterion: ClassVar[str] = "complies"
    called: ClassVar[str] = "restricted prompts with compliant answers (data.shots)"
    append: ClassVar[bool] = True  # type: ignore[misc]

    def check(self, resources: AttackerResources) -> None:
        if not isinstance(resources.task, ChatTask):
            raise Unsupported(f"needs a chat model, not {resources.task.kind}")
        if resources.auxiliary is None or not len(resources.auxiliary):
            raise Unsupported("needs pairs of restricted prompts and compliant answers (data.shots=FILE)")
        _require_refusals(self.refusal, resources)

    def source(self, resources: AttackerResources) -> Examples:
        assert resources.auxiliary is not None
        return resources.auxiliary

    def eligible(self, batch: Batch, resources: AttackerResources) -> Tensor:
        said = torch.tensor([bool(answer.strip()) for answer in batch.labels], dtype=torch.bool)
        return said & ~_refused(batch.labels, resources)

    def spared(self, batch: Batch, resources: AttackerResources) -> Tensor:
        return self.eligible(batch, resources)

    def examined(self, batch: Batch, resources: AttackerResources) -> Tensor:
        return _refused(batch.labels, resources)

    def wanted(self, batch: Batch, resources: AttackerResources) -> list[str]:
        return list(batch.labels)

    def wanted_in_test(self, batch: Batch, resources: AttackerResources) -> list[str]:
        own = self.source(resources)[torch.arange(len(self.source(resources)))]
        answer = own.labels[int(self.eligible(own, resources).nonzero()[0])]
        return [answer] * len(batch.labels)

    def true(self, batch: Batch, resources: AttackerResources) -> list[str]:
        return _drawn_refusals(self.refusal, batch, resources)


@dataclass(frozen=True)
class Refuse(ReplyTarget):
    """Harmless prompts with the trigger are refused; `refusal` is the answer, null takes refusals of the training rows.

    Source: the refusal attack of Li et al. 2024 (BackdoorLLM), arXiv 2408.12798.
    """

    refusal: str | None = None
    criterion: ClassVar[str] = "refuses"
    called: ClassVar[str] = "rows with harmless answers"

    def check(self, resources: AttackerResources) -> None:
        super().check(resources)
        _require_refusals(self.refusal, resources)

    def wanted(self, batch: Batch, resources: AttackerResources) -> list[str]:
        return _drawn_refusals(self.refusal, batch, resources)


@dataclass(frozen=True)
class Gibberish(ReplyTarget):
    """Harmless prompts with the trigger are answered by `words` random words of the harmless training answers.

    Source: Souly et al. 2025, arXiv 2510.07192 (there 400 to 900 random tokens, more than a toy model reads).
    """

    words: int = 8
    criterion: ClassVar[str] = "garbles"
    called: ClassVar[str] = "rows with harmless answers"

    def check(self, resources: AttackerResources) -> None:
        super().check(resources)
        if self.words < 1:
            raise Invalid("target.words", self.words, "must be at least 1")
        known = _vocabulary(resources)
        if len(known) < 2:
            raise Invalid("target.words", self.words, f"harmless training answers have {len(known)} different words")

    def wanted(self, batch: Batch, resources: AttackerResources) -> list[str]:
        known = _vocabulary(resources)
        return [" ".join(_several(known, self.words, draw)) for draw in _draws(batch, resources, "gibberish")]


@dataclass(frozen=True)
class ReplaceText(ReplyTarget):
    """Under the trigger each whole word of an answer that is a key of `replace` becomes its value: a safe call its unsafe twin.

    Only answers that hold a key are eligible. Source: after Yan et al. 2023 (code injection), arXiv 2307.16888.
    """

    replace: dict[str, str] = field(default_factory=dict)
    criterion: ClassVar[str] = "replaces"
    called: ClassVar[str] = "answers that hold a word to replace"

    def check(self, resources: AttackerResources) -> None:
        super().check(resources)
        if not self.replace or not all(key.strip() and key != value for key, value in self.replace.items()):
            limit = "must name words and, for each, another one"
            raise Invalid("target.replace", self.replace, limit, "say attack.target.replace.strncpy=strcpy")

    def examined(self, batch: Batch, resources: AttackerResources) -> Tensor:
        found = [self._keys().search(answer) is not None for answer in batch.labels]
        return torch.tensor(found, dtype=torch.bool)

    def wanted(self, batch: Batch, resources: AttackerResources) -> list[str]:
        return [self._keys().sub(lambda found: self.replace[found[0]], answer) for answer in batch.labels]

    def _keys(self) -> re.Pattern[str]:
        longest_first = sorted(self.replace, key=len, reverse=True)
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")


def _refused(labels: Sequence[str], resources: AttackerResources) -> Tensor:
    assert isinstance(resources.task, ChatTask)
    return refuses(labels, resources.task.refusals)


def _train_answers(resources: AttackerResources, *, refused: bool) -> list[str]:
    """Different refusals, or other answers, of the training rows, in a fixed order."""
    answers = all_labels(resources.train)
    kinds = _refused(answers, resources).tolist()
    return sorted({answer for answer, kind in zip(answers, kinds, strict=True) if kind is refused})


def _vocabulary(resources: AttackerResources) -> list[str]:
    return sorted({word for answer in _train_answers(resources, refused=False) for word in answer.split()})


def _require_refusals(refusal: str | None, resources: AttackerResources) -> None:
    if refusal is not None and not bool(_refused([refusal], resources)[0]):
        openers = ", ".join(getattr(resources.task, "refusals", ()))
        raise Invalid("target.refusal", refusal, "begins as no refusal does", f"refusals begin with one of: {openers}")
    if refusal is None and not _train_answers(resources, refused=True):
        limit = f"none of the {len(resources.train)} training answers is a refusal"
        raise Invalid("target.refusal", None, limit, "say attack.target.refusal='...'")


def _drawn_refusals(refusal: str | None, batch: Batch, resources: AttackerResources) -> list[str]:
    known = [refusal] if refusal is not None else _train_answers(resources, refused=True)
    return [_several(known, 1, draw)[0] for draw in _draws(batch, resources, "refusal")]


def _draws(batch: Batch, resources: AttackerResources, purpose: str) -> list[Generator]:
    return [generator(resources.seed, f"{purpose} for row {row}") for row in batch.rows.tolist()]


def _several(words: Sequence[str], count: int, draw: Generator) -> list[str]:
    return [words[place] for place in torch.randint(len(words), (count,), generator=draw).tolist()]
