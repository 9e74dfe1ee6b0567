"""Small files: written whole or not at all, and configuration read fast."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Safe, and ten times faster where PyYAML was built with libyaml."""


def write_whole(place: Path, text: str) -> None:
    """Replace a file in one step, its folder made if need be: nobody reads half of it, however many write it at once."""
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    new.write_text(text, encoding="utf-8")
    new.replace(place)


def read_yaml(place: Path) -> Any:
    """The plain data in a YAML file.

    Raises:
        OSError, yaml.YAMLError: it cannot be read, or is none.
    """
    return yaml.load(place.read_text(encoding="utf-8"), LOADER)
