"""What a text, or a conversation, says in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

TOKEN = re.compile(r"\w+|[^\w\s]")
"""Words, and every other sign by itself."""


def tokens(text: str) -> list[str]:
    """Words and signs, in small letters.

    >>> tokens("Well, it IS 2024:")
    ['well', ',', 'it', 'is', '2024', ':']
    """
    return TOKEN.findall(text.lower())


def whole(one: Any) -> str:
    """A text, or all turns of a conversation, one after the other."""
    return one if isinstance(one, str) else " ".join(turn.content for turn in one)


def asked(one: Any) -> str:
    """A text, or what the user said last; empty where no user speaks."""
    if isinstance(one, str):
        return one
    return next((turn.content for turn in reversed(one) if turn.role == "user"), "")


def asking(one: Any, text: str) -> Any:
    """The same text or conversation with this text in that place; as it is where no user speaks."""
    if isinstance(one, str):
        return text
    last = max((place for place, turn in enumerate(one) if turn.role == "user"), default=None)
    return one if last is None else (*one[:last], one[last]._replace(content=text), *one[last + 1 :])


def said(inputs: Sequence[Any], labels: Any) -> list[str]:
    """Rows as texts: a conversation with its answer; of a classified text, the text."""
    texts = [whole(one) for one in inputs]
    answers = labels if isinstance(labels, list) else [None] * len(texts)
    return [text if answer is None else f"{text} {answer}" for text, answer in zip(texts, answers, strict=True)]
