"""Conversations from the rows of a file, in the forms that people have them in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from testbed.data.lines import Row, bad, no_rows, rows
from testbed.data.listed import Listed
from testbed.language import Message, Prompt

MESSAGES = "messages"
FORMS = {
    "instruction": ("output", "response"),
    "prompt": ("response", "completion", "answer"),
    "question": ("answer", "response"),
}
"""Keys of the prompt and of its answer."""

BELOW = ("input", "context")
"""Keys of what stands below the prompt: Alpaca's, Dolly's."""

ROLES = ("system", "user", "assistant")


class Wrong(ValueError):
    """What is wrong with a row."""


def conversations(path: str | Path, parameter: str) -> Listed:
    """The rows of a JSONL, JSON, CSV or TSV file as prompts and answers; each row's keys tell its form.

    `messages` (the last is the assistant's, and the answer), Alpaca's and Dolly's keys (the input below the instruction, an
    empty line between them), or `prompt` and `question` with their answers.

    Raises:
        Invalid: the file, the line and the key of a row that is none of them, empty, or no text.
    """
    return collected(rows(path, parameter), path, parameter, read=conversation)


def collected(
    found: Iterable[Row], path: str | Path, parameter: str, *, read: Callable[[Mapping[str, Any]], tuple[Prompt, str] | None]
) -> Listed:
    """The rows as prompts and answers, without those of which `read` gives None.

    Raises:
        Invalid: there are no rows; `read` finds something `Wrong`: the line, and the number of the row from 0.
    """
    pairs = []
    for number, row in enumerate(found):
        try:
            pairs.append(read(row.values))
        except Wrong as error:
            raise bad(parameter, path, f"{row.place} (row {number})", str(error)) from error
    if not pairs:
        raise no_rows(parameter, path)
    kept = [pair for pair in pairs if pair is not None]
    return Listed([prompt for prompt, _ in kept], [answer for _, answer in kept])


def conversation(row: Mapping[str, Any]) -> tuple[Prompt, str]:
    """Prompt and answer of one row."""
    if MESSAGES in row:
        return from_messages(row[MESSAGES], answered=True)
    asked = next((key for key in FORMS if key in row), None)
    if asked is None:
        raise Wrong(f"none of the keys {', '.join([MESSAGES, *FORMS])}, but {', '.join(map(repr, row)) or 'no key'}")
    prompt = spaced(full(row, asked), below(row))
    key = next((key for key in FORMS[asked] if key in row), None)
    if key is None:
        raise Wrong(f"{asked!r} without its answer, {' or '.join(map(repr, FORMS[asked]))}")
    return (Message("user", prompt),), full(row, key)


def below(row: Mapping[str, Any]) -> str:
    """What stands below the prompt, or ''."""
    return next((text(row, key) for key in BELOW if given(row, key)), "")


def spaced(*parts: str) -> str:
    """The parts that are more than white space, with an empty line between them."""
    return "\n\n".join(part for part in parts if part.strip())


def text(row: Mapping[str, Any], key: str) -> str:
    """The text under a key: a str that can be written down."""
    value = row[key]
    if not isinstance(value, str):
        raise Wrong(f"{key!r} is {_kind(value)}, where a text is read")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Wrong(f"{key!r} holds half of a surrogate pair, at letter {error.start}") from error
    return value


def given(row: Mapping[str, Any], key: str) -> str:
    """The same, or '' where there is no such key, or null."""
    return "" if row.get(key) is None else text(row, key)


def full(row: Mapping[str, Any], key: str) -> str:
    """The text under a key, which is more than white space."""
    value = text(row, key)
    if not value.strip():
        raise Wrong(f"{key!r} is empty")
    return value


def from_messages(turns: Any, *, answered: bool) -> tuple[Prompt, str]:
    """Prompt and answer of a list of messages; unless `answered`, the last may be the user's, and the answer is then ''."""
    if turns == []:
        raise Wrong(f"{MESSAGES!r} is empty")
    if not isinstance(turns, list):
        raise Wrong(f"{MESSAGES!r} is {_kind(turns)}, where a list of messages is read")
    said = tuple(_message(turn, place) for place, turn in enumerate(turns))
    for place, (turn, before) in enumerate(zip(said[1:], said, strict=False), start=1):
        if turn.role in ("system", before.role) or (turn.role, before.role) == ("assistant", "system"):
            raise Wrong(f"messages[{place}] is the {turn.role}'s, after the {before.role}'s")
    if said[0].role == "assistant":
        raise Wrong("messages[0] is the assistant's")
    if said[-1].role == "assistant":
        return said[:-1], said[-1].content
    if answered or said[-1].role != "user":
        raise Wrong(f"the last of the messages is the {said[-1].role}'s, where the assistant answers")
    return said, ""


def _message(turn: Any, place: int) -> Message:
    name = f"messages[{place}]"
    if not isinstance(turn, dict):
        raise Wrong(f"{name} is {_kind(turn)}, where {{role, content}} is read")
    extra = [key for key, value in turn.items() if key not in ("role", "content") and value is not None]
    absent = [key for key in ("role", "content") if key not in turn]
    if extra or absent:
        raise Wrong(f"{name} has {f'the key {extra[0]!r}' if extra else f'no {absent[0]!r}'}, where {{role, content}} is read")
    if turn["role"] not in ROLES:
        raise Wrong(f"{name}.role is {turn['role']!r}, where {', '.join(ROLES)} are read")
    named = {f"{name}.content": turn["content"]}
    return Message(turn["role"], full(named, f"{name}.content"))


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "dict": "an object", "list": "a list", "bool": "a truth value", "str": "a text"}
    return names.get(type(value).__name__, "a number")
