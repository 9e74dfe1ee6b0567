"""Sets of prompts that people have from elsewhere, told by the names of their columns; none of them is shipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.api import Invalid
from testbed.data.conversations import collected, conversations
from testbed.data.lines import TABLES, Row, bad, table_rows
from testbed.data.listed import Listed

PROMPTS = ("forbidden_prompt", "goal", "behavior", "prompt", "question", "instruction")
"""Columns that hold the prompt, the first that there is: of StrongREJECT, AdvBench and JailbreakBench, HarmBench, XSTest."""

REFERENCES = ("reference", "answer", "response")
"""Columns that hold the true answer. AdvBench's and JailbreakBench's `target` is none: it is how a compliant reply begins."""

CONTEXT = "contextstring"
PICTURE = "redactedimagedescription"
SAFE, UNSAFE = "safe", "unsafe"
CONTRAST = "contrast_"
"""How XSTest's types of unsafe prompts begin, where it has no labels."""


def prompts(path: str | Path, parameter: str, *, kept: str = "") -> Listed:
    """Prompts with their true answers, '' where the file has none: a table as published, or JSON as `conversations` reads it.

    `kept` is 'safe' or 'unsafe': in a table that says which of its prompts are which, as XSTest's, the others are left out.

    Raises:
        Invalid: no column holds prompts; an empty prompt; a label that is neither safe nor unsafe; no rows.
    """
    if Path(path).suffix.lower() not in TABLES:
        return conversations(path, parameter, answered=False)
    rows = [Row(row.place, {name.lower(): cell for name, cell in row.values.items()}) for row in table_rows(path, parameter)]
    if not rows:
        raise Invalid(parameter, path, "the file holds no rows", "give one with at least one row")
    columns = list(rows[0].values)
    prompt, reference = (next((name for name in names if name in columns), None) for names in (PROMPTS, REFERENCES))
    if prompt is None or PICTURE in columns:
        limit = f"columns {', '.join(columns)}" + (": prompts about pictures are not read" if PICTURE in columns else "")
        raise Invalid(parameter, path, limit, f"name the column of the prompts {' or '.join(PROMPTS)}")
    chosen = [row for row in rows if not kept or _kind(row, columns, path, parameter) in ("", kept)]
    asked = [{"prompt": _asked(row.values, prompt), "response": row.values.get(reference, "")} for row in chosen]
    plain = (Row(row.place, values) for row, values in zip(chosen, asked, strict=True))
    return collected(plain, path, parameter, answered=False)


def _asked(values: Mapping[str, str], prompt: str) -> str:
    """The prompt, below its context where it has one."""
    context = values.get(CONTEXT, "")
    return f"{context}\n\n{values[prompt]}" if context.strip() and values[prompt].strip() else values[prompt]


def _kind(row: Row, columns: Sequence[str], path: str | Path, parameter: str) -> str:
    """'safe', 'unsafe', or '' where the table does not say."""
    if "label" in columns:
        label = row.values["label"].strip().lower()
        if label not in (SAFE, UNSAFE):
            raise bad(parameter, path, row.place, f"'label' is {label!r}, where {SAFE} and {UNSAFE} are read")
        return label
    if "type" in columns and "focus" in columns:
        return UNSAFE if row.values["type"].startswith(CONTRAST) else SAFE
    return ""
