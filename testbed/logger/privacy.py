"""Where this machine keeps its files is nobody's business: paths in what is shown are cut to their last part."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

ADDRESS = r"\b(?!file:)[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+"
"""Of what is elsewhere: it stays as it is."""
START = r"(?<![\w./~-])(?:file:/{0,2})?(?:~[\w.-]*|[A-Za-z]:)?[/\\]{1,2}"
"""Of an absolute path; one that follows a letter or a dot is relative."""
QUOTED = rf"(?<=['\"]){START}(?:[^/\\'\"\n]+[/\\])*(?P<quoted>[^/\\'\"\n]+)(?=['\"])"
WORD = r"[^/\\\s'\"]+"
BARE = rf"{START}(?:{WORD}(?: {WORD}){{0,3}}[/\\])*(?P<bare>{WORD})"
"""Outside quotes, the name of a folder may have four words: of a longer one the first words are shown."""
FOUND = re.compile(f"(?P<address>{ADDRESS})|{QUOTED}|{BARE}")


def without_paths(value: Any) -> Any:
    """Plain data in which every absolute path, alone or within a text, is only its last part; relative ones stay."""
    if isinstance(value, dict):
        return {without_paths(name): without_paths(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    if "\n" not in value and (value.startswith("~") or PurePath(value).is_absolute()):
        return PurePath(value).name
    return FOUND.sub(lambda found: next(part for part in found.groups() if part is not None), value)
