"""Plain data out of whatever was read: strings, numbers, lists and mappings, in bounded size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from testbed.error import escaped
from testbed.plain_json import DECODER
from testbed.untrusted import limits
from testbed.untrusted.verdict import Wrong


def printable(text: str, longest: int = limits.TEXT) -> str:
    """The text with what a terminal would obey escaped (control and formatting characters, lone surrogates), and cut."""
    return escaped(text[:longest]) + ("..." if len(text) > longest else "")


class Plain:
    """Turns values into plain data within one budget: shared parts count each time, so that no memo grows beyond it."""

    def __init__(self, nodes: int = limits.NODES) -> None:
        self.left = nodes

    def __call__(self, value: Any, depth: int = 0) -> Any:
        """The value as JSON knows it; what is neither number, text, list nor mapping is named by its type.

        Raises:
            Wrong: more values, or deeper ones, than plain data about a model need.
        """
        self.left -= 1
        if self.left < 0 or depth > limits.DEPTH:
            raise Wrong(
                f"the plain data in it hold more than {limits.NODES} values or {limits.DEPTH} levels", "save the weights alone"
            )
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if abs(value) < 2**63 else printable(hex(value), 80)
        if isinstance(value, float):
            return value if math.isfinite(value) else repr(value)
        if isinstance(value, str):
            return printable(value)
        if isinstance(value, Mapping):
            return {self._key(key): self(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self(item, depth + 1) for item in value]
        said = getattr(value, "plain", None)  # our own stand-ins know
        return self(said(), depth + 1) if callable(said) else f"<{printable(type(value).__name__, 80)}>"

    def _key(self, key: Any) -> str:
        return printable(key if isinstance(key, str) else str(self(key)), limits.NAME)


def parsed(text: bytes, what: str) -> dict[str, Any]:
    """The object in JSON text: UTF-8, no key twice, no NaN.

    Raises:
        Wrong: it is none.
    """
    try:
        found = DECODER.decode(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Wrong(f"{what} is no JSON ({printable(str(error), 120) or type(error).__name__})") from error
    if not isinstance(found, dict):
        raise Wrong(f"{what} is no JSON object")
    return found
