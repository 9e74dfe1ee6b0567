"""A folder that peft wrote: low-rank adapters and what they say of themselves, taken as data."""

from __future__ import annotations

import re
from typing import Any

from testbed.untrusted import limits
from testbed.untrusted.plain import Plain, parsed, printable
from testbed.untrusted.verdict import Unsafe, Wrong

CONFIGURATION = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
CODE = (
    "auto_mapping",
    "trust_remote_code",
    "auto_map",
    "custom_modules",
    "_target_",
    "_instantiator",
    "_attn_implementation_internal",
)
"""Keys by which a configuration makes a library import or fetch code."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|^\\\\|^//")


def configuration(text: bytes) -> dict[str, Any]:
    """An adapter's configuration as plain data.

    Raises:
        Unsafe: it names code to import, or an address to fetch from.
        Wrong: it is no JSON, too large, or does not say which kind of adapter it is.
    """
    if len(text) > limits.CONFIGURATION:
        raise Wrong(f"{CONFIGURATION} has {len(text)} bytes; at most {limits.CONFIGURATION} are read")
    found = Plain()(parsed(text, CONFIGURATION))
    _check(found, CONFIGURATION)
    if not isinstance(found.get("peft_type"), str):
        raise Wrong(f"{CONFIGURATION} does not say its peft_type")
    return found


def _check(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if name in CODE and item:
                raise Unsafe(f"{place} sets {name}: it wants code of its own to be imported")
            _check(item, f"{place} {printable(name, 40)}")
    elif isinstance(value, list):
        for item in value:
            _check(item, place)
    elif isinstance(value, str) and ADDRESS.search(value):
        raise Unsafe(f"{place} names an address ({printable(value, 60)}); nothing is fetched")
