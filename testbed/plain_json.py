"""JSON as the standard has it: no NaN or infinities, and no key twice in one object, where Python's own would drop one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
"""Raises `ValueError` for what is none."""
