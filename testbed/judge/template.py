"""What a judge that reads is shown: a template with prompt, reply and reference in it, none of which can break out."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from testbed.api import Invalid
from testbed.language import OUTCOMES, Judge, Prompt, Reply

PLACES = re.compile(r"\{(prompt|reply|reference)\}")
BREAK = "\\"
"""Stands after the first character of a delimiter that a text holds; a delimiter may not hold it itself."""

KEPT = 256
"""Texts judged at a time."""


def filled(template: str, texts: Mapping[str, str]) -> str:
    """The template with its places filled, all at once: braces and places in the texts stay as they are."""
    return PLACES.sub(lambda place: texts[place[1]], template)


def neutral(text: str, delimiters: Iterable[str]) -> str:
    """The text without these delimiters, in any case: '[END]' becomes '[\\END]', which is visible and ends nothing.

    The longest are broken first; a break makes no other delimiter, for none holds the break.
    """
    known = sorted({delimiter for delimiter in delimiters if delimiter}, key=len, reverse=True)
    if not known:
        return text
    pattern = re.compile("|".join(f"(?={re.escape(delimiter)})" for delimiter in known), re.IGNORECASE)
    places = [found.start() + 1 for found in pattern.finditer(text)]
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    return BREAK.join(pieces)


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
            if len(delimiter) < 2 or BREAK in delimiter:
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


def parsed(verdict: str, verdicts: Sequence[tuple[str, str]], otherwise: str | None) -> str:
    """The outcome of the first of `verdicts` (regular expression, outcome) found in what a judge said.

    Raises:
        Invalid: none is, and there is no outcome `otherwise`; the verdict is named.
    """
    for pattern, outcome in verdicts:
        if re.search(pattern, verdict.strip()):
            return outcome
    if otherwise is None:
        limit = f"the judge said {verdict[:200]!r}, which none of them matches"
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
    def said(self, texts: Sequence[str]) -> list[str]:
        """What the judge says to each filled template."""

    def judged(self, texts: Sequence[str]) -> list[str]:
        return [parsed(verdict, self.verdicts, self.otherwise) for verdict in self.said(texts)]
