"""Sets of prompts that people have from elsewhere, told by the names of their columns; none of them is shipped."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from testbed.api import Invalid
from testbed.data.conversations import FORMS, MESSAGES, Wrong, below, collected, from_messages, full, given, spaced, text
from testbed.data.lines import rows
from testbed.data.listed import Listed
from testbed.language import Message, Prompt

PROMPTS = ("forbidden_prompt", "goal", "behavior", "prompt", "question", "instruction")
"""Columns that hold the prompt, the first that there is: of StrongREJECT, AdvBench and JailbreakBench, HarmBench, XSTest."""

REFERENCES = ("reference", "answer", "response", "output", "completion")
"""Columns that hold the true answer. AdvBench's and JailbreakBench's `target` is none: it is how a compliant reply begins."""

CONTEXT = "contextstring"
PICTURE = "redactedimagedescription"
SAFE, UNSAFE = "safe", "unsafe"
CONTRAST = "contrast_"
"""How XSTest's types of unsafe prompts begin, where it has no labels."""


def prompts(path: str | Path, parameter: str, *, kept: str = "") -> Listed:
    """Prompts with their true answers, '' where the file has none: tables as published, or their rows as JSON objects.

    `kept` is 'safe' or 'unsafe': of rows that say which they are, as XSTest's, the others are left out. A JSON object may
    hold `messages` instead, the last of them the user's or the true answer.

    Raises:
        Invalid: no column holds prompts, or two have one name; an empty prompt; a label that is neither safe nor unsafe; no
            rows, or none of those asked for.
    """
    found = collected(rows(path, parameter), path, parameter, read=partial(_asked, kept=kept))
    if not len(found):
        raise Invalid(parameter, path, f"every row is left out, for none is {kept}", f"give prompts that are {kept}")
    return found


def _asked(values: Mapping[str, Any], *, kept: str) -> tuple[Prompt, str] | None:
    """Prompt and true answer of a row, or None where it is not of the kind that is kept."""
    if MESSAGES in values:
        return from_messages(values[MESSAGES], answered=False)
    row = _by_lower_name(values)
    column = next((name for name in PROMPTS if name in row), None)
    if PICTURE in row:
        raise Wrong(f"the column {PICTURE!r}: prompts about pictures are not read")
    if column is None:
        raise Wrong(f"none of the columns {', '.join(PROMPTS)}, but {', '.join(map(repr, values)) or 'no column'}")
    if kept and _kind(row) not in ("", kept):
        return None
    prompt = spaced(given(row, CONTEXT), full(row, column), below(row) if column in FORMS else "")
    reference = next((name for name in REFERENCES if name in row), "")
    return (Message("user", prompt),), full(row, reference) if given(row, reference) else ""


def _by_lower_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same cells under names in lower case: JailbreakBench writes `Goal`, AdvBench `goal`."""
    written: dict[str, str] = {}
    for name in values:
        other = written.setdefault(name.lower(), name)
        if other != name:
            raise Wrong(f"the columns {other!r} and {name!r} differ in their case alone")
    return {lower: values[name] for lower, name in written.items()}


def _kind(row: Mapping[str, Any]) -> str:
    """'safe', 'unsafe', or '' where the row does not say."""
    if "label" in row:
        label = row["label"].strip().lower() if isinstance(row["label"], str) else row["label"]
        if label not in (SAFE, UNSAFE):
            raise Wrong(f"'label' is {label!r}, where {SAFE} and {UNSAFE} are read")
        return str(label)
    if "type" in row and "focus" in row:
        return UNSAFE if text(row, "type").startswith(CONTRAST) else SAFE
    return ""
