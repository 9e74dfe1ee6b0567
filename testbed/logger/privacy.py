"""Where this machine keeps its files is nobody's business: paths in what is shown are cut to their last part."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

ABSOLUTE = re.compile(r"(?<![\w.:/~-])(?:~[\w.-]*|[A-Za-z]:)?[/\\](?:[^/\\\s'\"]+[/\\])*([^/\\\s'\"]+)")


def without_paths(value: Any) -> Any:
    """Plain data in which every absolute path, alone or within a text, is only its last part; relative ones stay."""
    if isinstance(value, dict):
        return {name: without_paths(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    if "\n" not in value and (value.startswith("~") or PurePath(value).is_absolute()):
        return PurePath(value).name
    return ABSOLUTE.sub(r"\1", value)
