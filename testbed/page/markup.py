"""HTML and what stands inside it, written so that nothing from a run can become markup."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from html import escape
from typing import Any


def tag(element: str, *inside: str, **attributes: Any) -> str:
    """An element around HTML. Attributes are escaped: None leaves one out, True is its bare name, '_' in a name means '-'."""
    told = [element]
    for key, value in attributes.items():
        word = key.rstrip("_").replace("_", "-")
        if value is True:
            told.append(word)
        elif value is not None and value is not False:
            told.append(f'{word}="{escape(str(value))}"')
    return f"<{' '.join(told)}>{''.join(inside)}</{element}>"


def text(value: object) -> str:
    """Any value as text."""
    return escape(str(value))


def name(value: object) -> str:
    """A name as text that may be broken after its underscores."""
    return text(value).replace("_", "_<wbr>")


def listed(items: Iterable[str]) -> str:
    """A list of HTML items."""
    return tag("ul", *(tag("li", item) for item in items))


def embedded(value: Any) -> str:
    """JSON for inside a script element: no '<' is left that could close it. NaN has no place in it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def inlined(script: str) -> str:
    """JavaScript for inside a script element: what would close it, or open a comment, is written otherwise."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
