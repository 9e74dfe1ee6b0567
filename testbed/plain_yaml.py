"""YAML as plain data, read within limits: a few lines can stand for billions of values, or nest until a parser dies."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Safe, and ten times faster where PyYAML was built with libyaml."""
LARGEST = 1_000_000
"""Bytes of a file; the largest of testbed's own has 8,000."""
DEEPEST = 40
"""Lists and mappings within one another."""
MOST_ALIASES = 200
MOST_VALUES = 200_000
"""Values once every alias stands for what it repeats."""


class Unread(yaml.YAMLError, ValueError):
    """A file that is no YAML in UTF-8."""


class Excessive(Unread):
    """A file that says more than is read: its size, its depth, its aliases, or what they stand for."""


def read(path: Path) -> Any:
    """The plain data in a YAML file.

    Raises:
        OSError: it cannot be read. Unread: it is none, or none in UTF-8, or over a limit; the message names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))  # a pipe would be waited for
    with path.open("rb") as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Excessive(f"{path}: it has more than {LARGEST:,} bytes")
    try:
        text = content.decode("utf-8")
        check(text)
        return yaml.load(text, LOADER)
    except (yaml.YAMLError, ValueError) as error:  # among these a date in month 13, and a number of 5,000 digits
        raise Unread(f"{path}: {' '.join(str(error).split())}") from error


def check(text: str) -> None:
    """Raises `Excessive` where a text is over a limit, before anything is made of it; `yaml.YAMLError` where it is no YAML.

    The parser's events are counted as they come, so that nothing is built and nothing recurses. An alias counts as many values
    as its anchor holds, aliases within it included.
    """
    held: dict[str, int] = {}
    """What each anchor stands for, once its node has ended; 0 until then."""
    nested: list[tuple[str | None, int]] = []
    """The open lists and mappings: their anchors, and how many values there were before them."""
    values = aliases = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            aliases += 1
            if not held.get(event.anchor, 1):
                raise Excessive(f"the alias *{event.anchor} stands within what it repeats")
            values += held.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.anchor:
                held[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            nested.append((event.anchor, values))
            values += 1
            if event.anchor:
                held[event.anchor] = 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = nested.pop()
            if anchor:
                held[anchor] = values - before
        if len(nested) > DEEPEST:
            raise Excessive(f"lists and mappings stand more than {DEEPEST} deep in one another")
        if aliases > MOST_ALIASES:
            raise Excessive(f"it has more than {MOST_ALIASES} aliases")
        if values > MOST_VALUES:
            raise Excessive(f"it stands for more than {MOST_VALUES:,} values")
