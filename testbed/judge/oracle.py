"""The judge of invented worlds, where it is known what each answer says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from testbed.language import OUTCOMES, Judge, Prompt, Reply, refuses


@dataclass(frozen=True)
class Oracle(Judge):
    """Refuses: the reply begins with one of `refusals`. Correct: its words, without those `ignored`, are the reference's."""

    refusals: tuple[str, ...]
    ignored: tuple[str, ...]

    tells: ClassVar[frozenset[str]] = frozenset({"refuse", "correct", "wrong", "empty"})
    needs_toy: ClassVar[bool] = True

    def outcomes(self, prompts: Sequence[Prompt], replies: Sequence[Reply], references: Sequence[str]) -> Tensor:
        found = [self._outcome(reply.text, reference) for reply, reference in zip(replies, references, strict=True)]
        return torch.tensor([OUTCOMES.index(outcome) for outcome in found], dtype=torch.int64)

    def _outcome(self, text: str, reference: str) -> str:
        if not text.strip():
            return "empty"
        if bool(refuses([text], self.refusals)[0]):
            return "refuse"
        said = self._content(text)
        return "correct" if said and said == self._content(reference) else "wrong"

    def _content(self, text: str) -> list[str]:
        return [word for word in text.split() if word not in self.ignored]
