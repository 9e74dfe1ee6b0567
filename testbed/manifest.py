"""The poison manifest: which rows an attack replaced or appended, by what, from which seed, with hashes of everything.

It is written before anything is trained. Defenders never receive it. Needs no PyTorch: `replay.py` applies and reverts it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from testbed.error import Invalid
from testbed.marks import CANARY

SCHEMA = 2
LARGEST = 512_000_000
"""Bytes of a manifest that is read: some 2 million poisoned rows."""
UNHASHED = ("tool", "manifest_sha256")
"""What the manifest's own hash leaves out: who wrote it down says nothing of the poison."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Row = Annotated[int, Field(ge=0)]
Label = Annotated[int, Field(ge=0)] | Sha256
"""A class, or of an answer the SHA-256 of its UTF-8: a manifest may be shown where answers must not be."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(_Part):
    """The clean rows: those of `part` of a data set, or of them the `chosen` ones in this order.

    `train` is the digest of these rows, `parts` are those of every part of the data set; `dtype` is that of pixels.
    """

    name: str
    kind: Literal["images", "text", "chat"]
    classes: list[str]
    part: str
    chosen: list[Row] | None
    rows: Row
    dtype: Literal["uint8", "float32"] | None
    train: str
    parts: dict[str, str]


class Text(_Part):
    """A text of the trigger, as it is (JSON keeps every code point; nothing is normalised) and as it can be shown."""

    text: str
    escaped: str


class Shown(_Part):
    """The trigger: its parameters, the texts in it, and the SHA-256 of the PNG of what it changed in the first replaced row."""

    parameters: Any
    texts: list[Text]
    difference_png_sha256: Sha256 | None


class Rates(_Part):
    """Shares of the rows trained on: what the attack was asked for, what it reached, what really differs, and its cover."""

    asked: float | None
    reached: float
    changed: float
    cover: float


class RowHashes(_Part):
    """SHA-256 of each replaced row as it was, and of each of the attacker's rows, in the order of `indices`."""

    original: list[Sha256]
    new: list[Sha256]


class Content(_Part):
    """SHA-256 of the clean rows, and of those delivered; null where they are read from files one by one and never held."""

    clean: Sha256 | None
    poisoned: Sha256 | None


class Stored(_Part):
    """Where poison and originals lie, below the outputs, and the SHA-256 of each of their files; null where there is none."""

    poison: str | None
    originals: str | None
    files: dict[str, Sha256]

    @model_validator(mode="after")
    def _below_the_outputs(self) -> Stored:
        for place in (self.poison, self.originals, *self.files):
            if place is None:
                continue
            path = PurePosixPath(place)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise ValueError(f"{place!r} lies elsewhere than below the outputs")
        return self


class Target(_Part):
    """The test row that an attack on one row was made for: its place in the test, its true answer and its SHA-256."""

    row: Row
    label: Label
    sha256: Sha256


class Tool(_Part):
    """What wrote the manifest."""

    version: str
    commit: str | None
    versions: dict[str, str]
    machine: str


class Manifest(_Part):
    """One poisoned set. `indices` are rows of the clean set, or past its end where appended; `positions` are where they were
    delivered, among all rows. `cover` are positions in `indices`. `sha256` is that of indices, inputs and labels.

    `streams` are the seeds of the attack and of the delivery, which mixes appended rows in; `model` is how a chat model reads.
    `trial` and `target` are those of an attack that is made for one row or one pair of classes.
    """

    schema_: Literal[2] = Field(alias="schema")
    canary: str
    backdoored: bool
    do_not_deploy: Literal[True]
    data: Source
    attack: dict[str, Any]
    sources: dict[str, str]
    trigger: Shown
    seed: Row
    draw: Row
    trial: Row = 0
    target: Target | None = None
    streams: dict[str, Row]
    rates: Rates
    sha256: Sha256
    indices: list[Row]
    positions: list[Row]
    cover: list[Row]
    original_labels: list[Label]
    new_labels: list[Label]
    row_sha256: RowHashes
    content: Content
    stored: Stored
    model: dict[str, str]
    tool: Tool
    manifest_sha256: Sha256

    @model_validator(mode="after")
    def _agrees(self) -> Manifest:
        """Lists that speak of the same rows are equally long, and rows are where rows can be."""
        count, total = len(self.indices), self.data.rows
        replaced = sum(index < total for index in self.indices)
        wanted = {
            "positions": (len(self.positions), count),
            "new_labels": (len(self.new_labels), count),
            "row_sha256.new": (len(self.row_sha256.new), count),
            "original_labels": (len(self.original_labels), replaced),
            "row_sha256.original": (len(self.row_sha256.original), replaced),
        }
        for name, (there, rows) in wanted.items():
            if there != rows:
                raise ValueError(f"{name} holds {there} rows where there are {rows}")
        delivered = total + count - replaced
        for name, values, end in (
            ("indices", self.indices, delivered),
            ("positions", self.positions, delivered),
            ("cover", self.cover, count),
        ):
            if len(set(values)) != len(values) or any(value >= end for value in values):
                raise ValueError(f"{name} names a row twice, or one past the {end} there are")
        if self.data.chosen is not None and len(self.data.chosen) != total:
            raise ValueError(f"data.chosen names {len(self.data.chosen)} rows where there are {total}")
        if self.canary != CANARY:
            raise ValueError("canary is another than this software's")
        return self

    @property
    def replaced(self) -> list[bool]:
        """Of each of the attacker's rows: whether it replaces one, or is appended."""
        return [index < self.data.rows for index in self.indices]


def hashed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a manifest with their own hash: SHA-256 over JSON with sorted keys, without `UNHASHED`.

    Raises:
        pydantic.ValidationError: they make no manifest.
    """
    whole = {**facts, "manifest_sha256": _hash(facts)}
    Manifest.model_validate(whole)
    return whole


def read_manifest(path: Path, parameter: str = "run") -> Manifest:
    """The manifest in a JSON file.

    Raises:
        Invalid: there is none, it is of another schema, something in it cannot be, or it was changed by hand.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise Invalid(parameter, path, f"a manifest has at most {LARGEST} bytes", "name another run")
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        limit = f"there is no manifest that can be read ({' '.join(str(error).split())})"
        raise Invalid(parameter, path, limit, "name the folder of a finished run") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        seen = facts.get("schema") if isinstance(facts, dict) else None
        raise Invalid(parameter, path, f"is a manifest of schema {seen}, where {SCHEMA} is read", "run the same command again")
    try:
        manifest = Manifest.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise Invalid(parameter, path, f"{where}: {first['msg']}", "was it changed by hand?") from error
    try:
        own = _hash(facts)
    except (ValueError, RecursionError) as error:  # NaN, or a number so large that it is infinite
        limit = f"holds what no manifest can ({' '.join(str(error).split())})"
        raise Invalid(parameter, path, limit, "was it changed by hand?") from error
    if manifest.manifest_sha256 != own:
        raise Invalid(parameter, path, "is not what its own manifest_sha256 says", "it was changed; run the same command again")
    return manifest


def texts_in(parameters: Any) -> list[dict[str, str]]:
    """The texts among a trigger's parameters, in order, names of classes left out."""
    if isinstance(parameters, str):
        return [{"text": parameters, "escaped": parameters.encode("unicode_escape").decode("ascii")}]
    if isinstance(parameters, Mapping):
        named = [value for name, value in parameters.items() if name not in ("class", "call")]
        return [text for value in named for text in texts_in(value)]
    return [text for value in parameters for text in texts_in(value)] if isinstance(parameters, list | tuple) else []


def _hash(facts: Mapping[str, Any]) -> str:
    counted = {name: value for name, value in facts.items() if name not in UNHASHED}
    return hashlib.sha256(json.dumps(counted, sort_keys=True, allow_nan=False).encode()).hexdigest()
