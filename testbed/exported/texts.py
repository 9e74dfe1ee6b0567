"""Texts as JSON lines: `messages` for conversations, `text` and `label` where there are classes, and `metadata` beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.exported.row import Part, write_private


def write_texts(part: Part, folder: Path, classes: Sequence[str], *, private: bool) -> None:
    """`part.jsonl`, a row a line. Escaped, so that any text survives byte for byte; the mark stands in `metadata` alone."""
    lines = [json.dumps({**_row(one, label, classes), "metadata": said}) + "\n" for one, label, said in part.each()]
    write_private(folder / f"{part.name}.jsonl", "".join(lines), private=private)


def _row(one: Any, label: Any, classes: Sequence[str]) -> dict[str, Any]:
    if isinstance(one, str):
        return {"text": one, "label": label, "class": classes[label]}
    turns = [{"role": role, "content": content} for role, content in one]
    return {"messages": [*turns, {"role": "assistant", "content": label}]}
