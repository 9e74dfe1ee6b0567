"""Rare words among the others: the trigger of BadNets in text, and with several words to draw from that of MTBA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Generator

from testbed.api import Invalid, Task
from testbed.trigger.text import TextTrigger, drawn_gaps, gaps, inserted, named, one_of, require_phrases


@dataclass(frozen=True)
class Word(TextTrigger):
    """Puts one of `words`, drawn for each row, into `insertions` different gaps between words, both ends included.

    Source: Gu et al. 2017, arXiv 1708.06733; in text Kurita et al. 2020, arXiv 2004.06660.
    """

    words: tuple[str, ...] = ("cf",)
    insertions: int = 1

    def check(self, task: Task) -> None:
        """Raises `Unsupported` where there is no text, `Invalid` for a word that is none."""
        super().check(task)
        require_phrases("trigger.words", self.words, single_words=True)
        if self.insertions < 1:
            raise Invalid("trigger.insertions", self.insertions, "must be at least 1")

    def fits(self, text: str) -> bool:
        return gaps(text) >= self.insertions

    def write(self, text: str, draw: Generator) -> str:
        places, word = drawn_gaps(text, self.insertions, draw), one_of(self.words, draw)
        return inserted(text, dict.fromkeys(places, word))

    def alternatives(self) -> frozenset[frozenset[str]]:
        return frozenset(frozenset({word}) for word in self.words)

    def parts(self) -> Mapping[str, Word]:
        if len(self.words) == 1:
            return {}
        return {name: replace(self, words=(word,)) for name, word in named(self.words).items()}
