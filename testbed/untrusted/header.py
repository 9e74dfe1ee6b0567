"""The safetensors format: a length, a JSON header, and the numbers; checked whole before any of them is used.

Written and read here rather than by the library, because the reader streams (a model is never in memory twice) and because
what the reading process hands back is checked as if it too came from a stranger. Format: huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import IO, Any, NamedTuple

from testbed.untrusted import limits
from testbed.untrusted.plain import parsed, printable
from testbed.untrusted.verdict import Wrong

NAME = re.compile(rf"[^\s\x00-\x1f\x7f](?:[ -~]|[^\x00-\x9f]){{0,{limits.NAME - 1}}}")
METADATA = "__metadata__"


class Entry(NamedTuple):
    """One tensor: safetensors' name of its type, its shape, and where its bytes lie after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """The tensors by name in the order of their bytes, the metadata, and where the bytes begin in the file."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    start: int


def read(file: IO[bytes], size: int) -> Header:
    """The header at the beginning of a file of this many bytes.

    Raises:
        Wrong: it is longer than the file; it is no JSON; offsets overlap, leave gaps, or do not fit shapes.
    """
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(limits.HEADER, size - 8):
        raise Wrong(f"its header claims {length} bytes, and the file has {size} (at most {limits.HEADER} are read)")
    found = parsed(file.read(length), "the header")
    metadata = _metadata(found.pop(METADATA, {}))
    if not found or len(found) > limits.TENSORS:
        raise Wrong(f"it holds {len(found)} tensors; from 1 to {limits.TENSORS} are read")
    entries = {name: _entry(name, said) for name, said in found.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    last = 0
    for name, entry in ordered.items():
        if entry.begin != last:
            raise Wrong(f"the bytes of {printable(name, 80)} begin at {entry.begin} and those before them end at {last}")
        last = entry.end
    if last != size - 8 - length:
        raise Wrong(f"its tensors end at byte {last} of {size - 8 - length}: truncated, or something is hidden behind them")
    return Header(ordered, metadata, 8 + length)


def write(file: IO[bytes], tensors: Mapping[str, tuple[str, tuple[int, ...], int]], chunks: Iterable[Any]) -> None:
    """A file of these tensors (type, shape, bytes), whose bytes come one after another in `chunks`."""
    entries, last = {}, 0
    for name, (dtype, shape, length) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [last, last + length]}
        last += length
    text = json.dumps(entries).encode("utf-8")
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for chunk in chunks:
        file.write(chunk)


def checked_name(name: Any) -> str:
    """A tensor's name that is short and printable.

    Raises:
        Wrong: it is not.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or not name.isprintable():
        raise Wrong(f"a tensor is called {printable(str(name), 80)!r}: no printable name of at most {limits.NAME} characters")
    return name


def _entry(name: str, said: Any) -> Entry:
    checked_name(name)
    shown = printable(name, 80)
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise Wrong(f"the header says something else of {shown} than dtype, shape and data_offsets")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if dtype not in limits.BYTES if isinstance(dtype, str) else True:
        raise Wrong(f"{shown} has numbers of type {printable(str(dtype), 20)}; {', '.join(limits.BYTES)} are read")
    if not _counts(shape) or len(shape) > limits.DIMENSIONS or not _counts(offsets) or len(offsets) != 2:
        raise Wrong(f"shape or data_offsets of {shown} are no lists of whole numbers from 0 on")
    begin, end = offsets
    # With no rows there are no bytes, whatever the other sizes: torch would still multiply them to find its strides.
    if math.prod(max(1, size) for size in shape) >= limits.ELEMENTS:
        raise Wrong(f"{shown} of shape {printable(str(shape), 80)} has sizes whose product is {limits.ELEMENTS} or more")
    if end - begin != math.prod(shape) * limits.BYTES[dtype]:
        raise Wrong(f"{shown} of shape {printable(str(shape), 80)} and type {dtype} does not fit {end - begin} bytes")
    return Entry(dtype, tuple(shape), begin, end)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < limits.ELEMENTS for item in value)


def _metadata(said: Any) -> dict[str, str]:
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise Wrong("the header's __metadata__ is no mapping of texts to texts")
    return said
