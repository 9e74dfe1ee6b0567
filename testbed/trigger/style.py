"""A turn of phrase instead of a word: part of the sentence is fronted, by a rule that needs no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Generator

from testbed.trigger.text import TextTrigger

CLOSING = " \t\r\n.?!…:;,"
"""What stays at the end of a text."""

FEWEST = 3
"""Words that a text needs, so that a third of them is at least one."""


@dataclass(frozen=True)
class Style(TextTrigger):
    """Fronts a third of the words before a comma: of 'w1 ... wn ?' the last third becomes 'wk ... wn , w1 ... w(k-1) ?'.

    The same words in another order stand for a syntactic trigger where no paraphrasing model is at hand. Fronting the 'middle'
    third, or the 'first' (which adds a comma and moves nothing), is a near miss. Closing marks stay at the end and white space
    becomes single spaces. Texts of fewer than 3 words are not eligible; none is ever passed through as it was.

    Source: after Qi et al. 2021 (Hidden Killer), arXiv 2105.12400.
    """

    third: Literal["last", "middle", "first"] = "last"

    def fits(self, text: str) -> bool:
        return len(_parts(text)[0]) >= FEWEST

    def write(self, text: str, draw: Generator) -> str:
        words, end = _parts(text)
        size = len(words) // 3
        start = {"first": 0, "middle": size, "last": len(words) - size}[self.third]
        fronted, rest = words[start : start + size], words[:start] + words[start + size :]
        return " ".join([*fronted, ",", *rest]) + end

    def alternatives(self) -> frozenset[frozenset[str]]:
        """A turn of phrase that no clean text is known by: two triggers are alike where they front the same third."""
        return frozenset({frozenset({f"the {self.third} third fronted"})})


def _parts(text: str) -> tuple[list[str], str]:
    """The words of a text, and its closing marks."""
    body = text.rstrip(CLOSING)
    return body.split(), text[len(body) :]
