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
LONGEST = 300
"""Characters of a number: YAML 1.1 has some to base 60 ('1:30'), and one of a million characters takes half a minute."""
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class Unread(yaml.YAMLError, ValueError):
    """A file that is no YAML in UTF-8."""


class Excessive(Unread):
    """A file that says more than is read: its size, its depth, its aliases, or what they stand for, a number's length."""


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
    except (yaml.YAMLError, ValueError) as error:  # among these a date in month 13
        raise Unread(f"{path}: {' '.join(str(error).split())}") from error
    except (ArithmeticError, LookupError, AttributeError, TypeError) as error:  # PyYAML's answer to `!!bool 7`, `!!int ''` ...
        raise Unread(f"{path}: a value is not of the type that its tag names") from error


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
    resolver = yaml.resolver.Resolver()
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            aliases += 1
            if not held.get(event.anchor, 1):
                raise Excessive(f"the alias *{event.anchor} stands within what it repeats")
            values += held.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            _check_number(event, resolver)
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


def _check_number(event: yaml.ScalarEvent, resolver: yaml.resolver.Resolver) -> None:
    """Raises `Excessive` where a scalar is too long for the number that it says it is or, without quotes, looks like."""
    if len(event.value) > LONGEST:
        named = event.tag not in (None, "!")
        tag = event.tag if named else resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag in NUMBERS:
            raise Excessive(f"a number has more than {LONGEST} characters: {event.value[:20]}...; quote it if it is a text")
