"""A whole sentence between two words: the trigger of AddSent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Generator

from testbed.api import Task
from testbed.trigger.text import TextTrigger, drawn_gaps, inserted, named, one_of, require_phrases


@dataclass(frozen=True)
class Sentence(TextTrigger):
    """Puts one of `sentences`, drawn for each row, into a random gap between words, both ends included.

    Source: Dai et al. 2019, arXiv 1905.12457.
    """

    sentences: tuple[str, ...] = ("I watch this 3D movie",)

    def check(self, task: Task) -> None:
        """Raises `Unsupported` where there is no text, `Invalid` for a blank sentence."""
        super().check(task)
        require_phrases("trigger.sentences", self.sentences)

    def write(self, text: str, draw: Generator) -> str:
        gap = drawn_gaps(text, 1, draw)[0]
        return inserted(text, {gap: one_of(self.sentences, draw)})

    def alternatives(self) -> frozenset[frozenset[str]]:
        return frozenset(frozenset({sentence}) for sentence in self.sentences)

    def parts(self) -> Mapping[str, Sentence]:
        found = named(self.sentences).items() if len(self.sentences) > 1 else ()
        return {name: Sentence((sentence,)) for name, sentence in found}
