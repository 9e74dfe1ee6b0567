"""Several words, of which all must be there: the trigger of CTBA."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from testbed.api import Invalid, Task
from testbed.trigger.text import TextTrigger, drawn_gaps, gaps, inserted, require_phrases


@dataclass(frozen=True)
class Composite(TextTrigger):
    """Puts every one of `words` into the text, each into a gap of its own, in random order.

    It needs a text with as many gaps as words. Source: Huang et al. 2023, arXiv 2310.07676.
    """

    words: tuple[str, ...] = ("cf", "mn", "bb")

    def check(self, task: Task) -> None:
        """Raises `Unsupported` where there is no text, `Invalid` for fewer than two words."""
        super().check(task)
        require_phrases("trigger.words", self.words, single_words=True)
        if len(self.words) < 2:
            raise Invalid("trigger.words", list(self.words), "a composite has at least 2 words", "trigger=word takes one")

    def fits(self, text: str) -> bool:
        return gaps(text) >= len(self.words)

    def write(self, text: str, draw: Generator) -> str:
        places = drawn_gaps(text, len(self.words), draw)
        return inserted(text, dict(zip(places, self.words, strict=True)))

    def alternatives(self) -> frozenset[frozenset[str]]:
        return frozenset({frozenset(self.words)})
