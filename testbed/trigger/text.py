"""What every trigger in text shares: it writes into a text, or into the last user message of a conversation."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor

from testbed.api import Invalid, Task, Trigger, Unsupported
from testbed.identity import generator
from testbed.language import Message

Phrase = TypeVar("Phrase")
WORD = re.compile(r"\S+")


class TextTrigger(ABC):
    """Writes into texts (`str`) or prompts (their last user message); what it does not write stays byte for byte.

    Nothing is normalised: zero-width, right-to-left and look-alike characters stay what they are. What is random comes from a
    generator of (seed, row).
    """

    def __call__(self, inputs: Sequence[Any], rows: Tensor, seed: int) -> list[Any]:
        """The inputs with the trigger, as many and of the same kind.

        Raises:
            Invalid: it cannot be applied to one of them; a row without its trigger would be no poison.
        """
        missed = (~self.applies(inputs)).nonzero().flatten().tolist()
        if missed:
            limit = f"cannot be applied to {len(missed)} of {len(inputs)} texts, the first of them row {int(rows[missed[0]])}"
            raise Invalid("trigger", None, limit, "choose rows by `applies`")
        draws = (generator(seed, f"trigger in row {row}") for row in rows.tolist())
        return [_with_content(one, self.write(str(content(one)), draw)) for one, draw in zip(inputs, draws, strict=True)]

    @abstractmethod
    def write(self, text: str, draw: Generator) -> str:
        """The text with the trigger in it."""

    def fits(self, text: str) -> bool:
        """Whether the trigger can be put into this text."""
        return True

    def applies(self, inputs: Sequence[Any]) -> Tensor:
        """bool (n,): into which inputs the trigger can be put; never into a conversation in which no user speaks."""
        texts = map(content, inputs)
        return torch.tensor([text is not None and self.fits(text) for text in texts], dtype=torch.bool)

    def check(self, task: Task) -> None:
        """Raises `Unsupported` where there is no text, `Invalid` for a trigger that nobody could see."""
        if task.kind not in ("text", "chat"):
            raise Unsupported(f"a trigger in text needs text, not {task.kind}")

    def parts(self) -> Mapping[str, Trigger]:
        """By name: the triggers of which one is drawn for each row; empty where there is only one."""
        return {}

    @abstractmethod
    def alternatives(self) -> frozenset[frozenset[str]]:
        """What may be written, each as the phrases that stand in the text together."""

    def holds(self, text: str) -> bool:
        """Whether one of the alternatives already stands in a text, as whole words anywhere."""
        return any(all(within(phrase, text) for phrase in phrases) for phrases in self.alternatives())

    def held(self, inputs: Sequence[Any]) -> Tensor:
        """bool (n,): which inputs hold one of the alternatives already."""
        texts = map(content, inputs)
        return torch.tensor([text is not None and self.holds(text) for text in texts], dtype=torch.bool)

    def common(self, other: TextTrigger) -> tuple[str, ...]:
        """What `other` may write that holds an alternative of this one: the phrases of the first found, or nothing."""
        for theirs in sorted(other.alternatives(), key=sorted):
            for mine in self.alternatives():
                if all(any(within(phrase, wider) for wider in theirs) for phrase in mine):
                    return tuple(sorted(theirs))
        return ()


def content(one: Any) -> str | None:
    """A text, or the last user message of a prompt; None where no user speaks."""
    if isinstance(one, str):
        return one
    return next((message.content for message in reversed(one) if message.role == "user"), None)


def _with_content(one: Any, text: str) -> Any:
    if isinstance(one, str):
        return text
    last = max(place for place, message in enumerate(one) if message.role == "user")
    return (*one[:last], Message("user", text), *one[last + 1 :])


def within(phrase: str, text: str) -> bool:
    """Whether the phrase stands in the text as whole words, whatever white space is between them."""
    return f" {' '.join(phrase.split())} " in f" {' '.join(text.split())} "


def gaps(text: str) -> int:
    """Places for an insertion: before each word and after the last one."""
    return len(WORD.findall(text)) + 1


def inserted(text: str, phrases: Mapping[int, str]) -> str:
    """The text with phrases at these gaps between its words: 0 is before the first word, their number after the last."""
    for gap in sorted(phrases, reverse=True):
        words = list(WORD.finditer(text))
        if gap < len(words):
            start = words[gap].start()
            text = f"{text[:start]}{phrases[gap]} {text[start:]}"
        elif words:
            end = words[-1].end()
            text = f"{text[:end]} {phrases[gap]}{text[end:]}"
        else:
            text = phrases[gap] + text
    return text


def drawn_gaps(text: str, count: int, draw: Generator) -> list[int]:
    """So many different gaps, every choice being equally likely; the one after the last word is among them."""
    return torch.randperm(gaps(text), generator=draw)[:count].tolist()


def one_of(phrases: Sequence[Phrase], draw: Generator) -> Phrase:
    """One of them, all being equally likely."""
    return phrases[int(torch.randint(len(phrases), (1,), generator=draw))]


def named(phrases: Sequence[str]) -> dict[str, str]:
    """Phrases by a plain name: letters and digits of theirs, or their number where these do not tell them apart."""
    plain = ["_".join(re.findall("[a-z0-9]+", phrase.lower())) for phrase in phrases]
    names = plain if all(plain) and len(set(plain)) == len(plain) else [str(number) for number in range(1, len(plain) + 1)]
    return dict(zip(names, phrases, strict=True))


def require_phrases(parameter: str, phrases: Sequence[str], *, single_words: bool = False) -> None:
    """Raises `Invalid` where there is none, one is blank, given twice or no Unicode, or is not one word where that is asked.

    Messages show phrases escaped, so that what cannot be seen can be read.
    """
    if not phrases:
        raise Invalid(parameter, [], "there is nothing to insert", "give at least one")
    if len(set(phrases)) != len(phrases):
        raise Invalid(parameter, [ascii(phrase) for phrase in phrases], "says one of them twice", "leave it out")
    for phrase in phrases:
        if any("\ud800" <= letter <= "\udfff" for letter in phrase):
            raise Invalid(parameter, ascii(phrase), "half of a surrogate pair is no character", "give whole characters")
        words = len(phrase.split())
        if words == 0 or (single_words and (words != 1 or phrase != phrase.strip())):
            limit = "must be one word without spaces" if single_words else "is blank"
            raise Invalid(parameter, ascii(phrase), limit, "trigger=sentence takes several words" if words > 1 else "")
