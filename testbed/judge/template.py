"""What a judge that reads is shown: a template with prompt, reply and reference in it, none of which can break out."""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from testbed.api import Invalid
from testbed.language import OUTCOMES, Judge, Prompt, Reply

PLACES = re.compile(r"\{(prompt|reply|reference)\}")
BREAK = "\\"
"""Stands after the first character of a delimiter that a text holds; a delimiter may not hold it itself."""

UNSEEN = frozenset({"Cc", "Cf", "Mn", "Mc", "Me"})
"""Categories of Unicode: control and format characters, and marks, all of which some tokenizers strip."""

KEPT = 256
"""Texts judged at a time."""


def filled(template: str, texts: Mapping[str, str]) -> str:
    """The template with its places filled, all at once: braces and places in the texts stay as they are."""
    return PLACES.sub(lambda place: texts[place[1]], template)


def neutral(text: str, delimiters: Iterable[str]) -> str:
    """The text without these delimiters, in any case: '[END]' becomes '[\\END]', which is visible and ends nothing.

    Nor with what a tokenizer's normalisation makes one of (full-width brackets, ligatures, letters that are not seen): what is
    equal as `bare` letters is broken too. A break makes no other delimiter, for none holds the break.
    """
    known = {delimiter for delimiter in delimiters if delimiter}
    unseen = {delimiter for delimiter in known if len(bare(delimiter)) < 2}  # of marks, for instance: as they are
    breaks: set[int] = set()
    spelt_out: set[int] = set()
    for first, last in (*_found(text, known - unseen, bare), *_found(text, unseen, str.casefold)):
        (spelt_out if first == last else breaks).add(first)  # one sign may be a whole delimiter, as U+203C is '!!'
    signs = [BREAK.join(unicodedata.normalize("NFKC", sign)) if place in spelt_out else sign for place, sign in enumerate(text)]
    return "".join(sign + BREAK if place in breaks else sign for place, sign in enumerate(signs))


def _found(text: str, delimiters: Iterable[str], form: Callable[[str], str]) -> Iterator[tuple[int, int]]:
    """The places of the first and the last sign of every delimiter in the text, compared in this form."""
    letters = [(letter, place) for place, sign in enumerate(text) for letter in form(sign)]
    plain = "".join(letter for letter, _ in letters)
    for delimiter in map(form, delimiters):
        start = plain.find(delimiter)
        while start >= 0:
            yield letters[start][1], letters[start + len(delimiter) - 1][1]
            start = plain.find(delimiter, start + 1)


@lru_cache(maxsize=4096)
def bare(text: str) -> str:
    """Small letters without their marks and without what is not seen: what is equal under NFKC is equal here.

    A text is its signs' bare letters one after the other, which is not so of NFKC: that joins them.
    """
    letters = unicodedata.normalize("NFKD", text)
    return "".join(sign for sign in letters if sign.isspace() or unicodedata.category(sign) not in UNSEEN).casefold()


def conversation(prompt: Prompt) -> str:
    """The content of a single turn; several with their roles, a line each."""
    return prompt[0].content if len(prompt) == 1 else "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


@dataclass(frozen=True, kw_only=True)
class Reading(Judge):
    """A judge that is shown `template` with {prompt}, {reply} and {reference} filled in; an empty reply it is not shown at all.

    `delimiters` are what the template tells its parts apart by: a reply that holds one is shown with it broken, so that no
    reply can end its own part and speak as the judge (replies shown to HarmBench's classifier could). `characters` of a
    reply are shown, all if None.
    Equal texts are judged once.
    """

    template: str
    delimiters: tuple[str, ...]
    characters: int | None

    @abstractmethod
    def judged(self, texts: Sequence[str]) -> list[str]:
        """The outcome of each filled template."""

    def specials(self) -> Sequence[str]:
        """Further texts that must not stand in a reply, such as the special tokens of a tokenizer."""
        return ()

    def check(self, resources: Any) -> None:
        if "{reply}" not in self.template:
            raise Invalid("template", self.template, "must hold {reply}", component="judge")
        for delimiter in self.delimiters:
            if len(delimiter) < 2 or BREAK in unicodedata.normalize("NFKC", delimiter):
                raise Invalid("delimiters", delimiter, "needs two characters or more, no backslash among them", "", "judge")
        if self.characters is not None and self.characters < 1:
            raise Invalid("characters", self.characters, "must be at least 1, or null for all", component="judge")

    def require_outcomes(self, parameter: str, outcomes: Iterable[str | None]) -> None:
        """Raises `Invalid` for an outcome that there is not."""
        for outcome in outcomes:
            if outcome not in (*OUTCOMES, None):
                raise Invalid(parameter, outcome, f"is no outcome; choose from {', '.join(OUTCOMES)}", component="judge")

    def outcomes(self, prompts: Sequence[Prompt], replies: Sequence[Reply], references: Sequence[str]) -> Tensor:
        self.check(None)
        exchanges = zip(prompts, replies, references, strict=True)
        shown = [self.shown(*exchange) if exchange[1].text.strip() else None for exchange in exchanges]
        new = [text for text in dict.fromkeys(shown) if text is not None and text not in self._known]
        for start in range(0, len(new), KEPT):  # what was judged stays known if a later one fails
            part = new[start : start + KEPT]
            self._known.update(zip(part, self.judged(part), strict=True))
        found = ["empty" if text is None else self._known[text] for text in shown]
        return torch.tensor([OUTCOMES.index(outcome) for outcome in found], dtype=torch.int64)

    def shown(self, prompt: Prompt, reply: Reply, reference: str) -> str:
        """The template for one reply."""
        texts = {"prompt": conversation(prompt), "reply": reply.text.strip()[: self.characters], "reference": reference}
        return filled(self.template, {name: neutral(text, self._broken) for name, text in texts.items()})

    @cached_property
    def _broken(self) -> tuple[str, ...]:
        return (*self.delimiters, *self.specials())

    @cached_property
    def _known(self) -> dict[str, str]:
        return {}


def parsed(verdict: str | None, verdicts: Sequence[tuple[str, str]], otherwise: str | None) -> str:
    """The outcome of the first of `verdicts` (regular expression, outcome) found in what a judge said; None matches none.

    Raises:
        Invalid: none is, and there is no outcome `otherwise`; the verdict is named.
    """
    for pattern, outcome in verdicts:
        if verdict is not None and re.search(pattern, verdict.strip()):
            return outcome
    if otherwise is None:
        told = "nothing" if verdict is None else repr(verdict[:200])
        limit = f"the judge said {told}, which none of them matches"
        raise Invalid(
            "verdicts", [pattern for pattern, _ in verdicts], limit, "add a pattern, or say judge.otherwise=OUTCOME", "judge"
        )
    return otherwise


@dataclass(frozen=True, kw_only=True)
class Speaking(Reading):
    """A judge that answers in words: `verdicts` are regular expressions with outcomes, the first that is found counts.

    A verdict that matches none is an error, unless an outcome `otherwise` is declared.
    """

    verdicts: tuple[tuple[str, str], ...]
    otherwise: str | None

    @property
    def tells(self) -> frozenset[str]:  # type: ignore[override]
        """What its verdicts can say."""
        return frozenset({*(outcome for _, outcome in self.verdicts), *([self.otherwise] if self.otherwise else ()), "empty"})

    def check(self, resources: Any) -> None:
        super().check(resources)
        self.require_outcomes("verdicts", [outcome for _, outcome in self.verdicts])
        self.require_outcomes("otherwise", [self.otherwise])
        for pattern, _ in self.verdicts:
            try:
                re.compile(pattern)
            except re.error as error:
                raise Invalid("verdicts", pattern, f"is no regular expression ({error})", component="judge") from error

    @abstractmethod
    def said(self, texts: Sequence[str]) -> Sequence[str | None]:
        """What the judge says to each filled template; None to one that it will not be shown."""

    def judged(self, texts: Sequence[str]) -> list[str]:
        return [parsed(verdict, self.verdicts, self.otherwise) for verdict in self.said(texts)]
