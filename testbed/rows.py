"""The nouns of data: rows read together, a data set, what an attacker replaces, a data set cut into its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from testbed.task import Task


class Batch(NamedTuple):
    """Rows read together, before any transform.

    `inputs`: images uint8 (B, C, H, W) in 0..255; text `list[str]`; chat `list[tuple[Message, ...]]`.
    `labels`: int64 (B,), or for chat the answers. `rows`: int64 (B,), positions in what the reader was given.
    """

    inputs: Any
    labels: Any
    rows: Tensor


@runtime_checkable
class Examples(Protocol):
    """A data set that is read in batches, never one by one: `examples[int64 (B,)] -> Batch`."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Batch: ...


class Poison(NamedTuple):
    """Rows that an attacker replaces: `batch` stands at `indices` (int64 (n,)); an index past the end appends.

    `cover` bool (n,) marks rows that teach what must not set the backdoor off: they have their true answer. For a test,
    `indices` are the rows examined, and `batch` holds the inputs shown and the answers that the attacker wants.
    """

    indices: Tensor
    batch: Batch
    cover: Tensor | None = None


@dataclass(frozen=True)
class Splits:
    """A data set cut into its parts; nothing is ever tuned on `test`; `exams` are named extra test sets.

    `reserve` is the defender's declared clean budget and `reserve_source` says where it was taken from. `pools` are further
    rows of chat data: 'pretraining', 'alignment', 'benign', 'shots' (the attacker's own), 'new_task'. `left_out` rows were bad.
    """

    name: str
    task: Task
    train: Examples
    validation: Examples
    test: Examples
    reserve: Examples
    reserve_source: str
    exams: Mapping[str, Examples] = field(default_factory=dict)
    pools: Mapping[str, Examples] = field(default_factory=dict)
    left_out: int = 0
