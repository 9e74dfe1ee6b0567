"""Stored answers of chat models: every prompt with its reply, so that any judge can judge again. They stay on this machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed.api import Invalid
from testbed.language import OUTCOMES, Message, Prompt, Reply
from testbed.marks import CANARY

SCHEMA = 1
PRIVATE = 0o600
PARTS = (
    *("exam", "step", "victim", "row", "prompt", "prompt_sha256", "reply", "refusal_log_odds", "reference", "wanted"),
    "outcome",
)


def record(
    exam: str,
    step: int | None,
    victim: str,
    row: int,
    *,
    prompt: Prompt,
    reply: Reply,
    reference: str,
    outcome: int | None,
    wanted: str | None = None,
) -> dict[str, Any]:
    """One reply as plain data; `outcome` is a position in `OUTCOMES`."""
    turns = [list(turn) for turn in prompt]
    return {
        "exam": exam,
        "step": step,
        "victim": victim,
        "row": row,
        "prompt": turns,
        "prompt_sha256": prompt_digest(prompt),
        "reply": reply.text,
        "refusal_log_odds": reply.refusal_log_odds,
        "reference": reference,
        "wanted": wanted,
        "outcome": None if outcome is None else OUTCOMES[outcome],
    }


def prompt_digest(prompt: Prompt) -> str:
    """SHA-256 of the turns as JSON."""
    return hashlib.sha256(json.dumps([list(turn) for turn in prompt]).encode()).hexdigest()


def write_answers(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines that only their owner may read; the first says what they are. Escaped, so that any text survives."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE)
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        os.fchmod(handle, PRIVATE)  # it may have been there
        stream.write(json.dumps({"testbed": {"schema": SCHEMA, "canary": CANARY}}) + "\n")
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_answers` wrote.

    Raises:
        Invalid: a line that is no JSON or lacks a part, named by its number; a file of another kind.
    """
    rows: Iterator[tuple[int, Any]] = json_lines(path, "runs")
    _, head = next(rows, (0, None))
    marked = head.get("testbed") if isinstance(head, dict) else None
    if not isinstance(marked, dict) or marked.get("schema") != SCHEMA:
        raise Invalid("", path, f"is no file of answers of schema {SCHEMA}", component="runs")
    return [_whole(row, f"{path} line {number}") for number, row in rows]


def json_lines(path: Path, component: str) -> Iterator[tuple[int, Any]]:
    """The values in a file of JSON lines, each with the number of its line; empty lines hold none.

    Raises:
        Invalid: it cannot be read, or a line is no JSON.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid("", path, f"cannot be read ({error})", component=component) from error
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at U+2028 and its like
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise Invalid("", f"{path} line {number}", f"is no JSON ({error})", component=component) from error


def asked(row: Mapping[str, Any]) -> tuple[Prompt, Reply, str]:
    """The prompt, the reply and the reference of a stored row, as a judge takes them."""
    prompt = tuple(Message(role, content) for role, content in row["prompt"])
    return prompt, Reply(row["reply"], row["refusal_log_odds"]), row["reference"]


def _whole(row: Any, where: str) -> dict[str, Any]:
    absent = [name for name in PARTS if name not in row] if isinstance(row, dict) else list(PARTS)
    if absent:
        raise Invalid("", where, f"lacks {', '.join(absent)}", "was it changed by hand?", "runs")
    if row["outcome"] not in (None, *OUTCOMES):
        raise Invalid("", where, f"{row['outcome']!r} is no outcome", "was it changed by hand?", "runs")
    return dict(row)
