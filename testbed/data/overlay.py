"""Poison as replaced rows: laid over a data set, and handed on as rows without a history."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from testbed.api import Batch, Examples, Invalid, Poison
from testbed.data.listed import Listed
from testbed.data.memory import MemoryExamples
from testbed.identity import examples_digest, generator, key, poison_digest, tensor_digest


class Poisoned(NamedTuple):
    """What is trained on, and what only the pipeline knows: `positions` int64 (n,) of the attacker's rows among `examples`.

    `source` int64 (len(examples),) says which row of the clean data stood there, or -1 for an appended row.
    """

    examples: Examples
    positions: Tensor
    source: Tensor
    cover: Tensor

    @property
    def flags(self) -> Tensor:
        """bool (len(examples),): which rows are poison; the attacker's cover rows have their true answer and are none."""
        flags = torch.zeros(len(self.source), dtype=torch.bool)
        flags[self.positions[~self.cover]] = True
        return flags


def covering(poison: Poison) -> Tensor:
    """bool (n,): which rows of a poison are cover."""
    return torch.zeros(len(poison.indices), dtype=torch.bool) if poison.cover is None else poison.cover


def poisoned(clean: Examples, poison: Poison, seed: int) -> Poisoned:
    """`clean` with the poison in its place; appended rows are mixed in by a permutation drawn from `seed`.

    Raises:
        Invalid: an index is negative or named twice, or appended indices leave a gap.
    """
    _check(clean, poison)
    total = max(len(clean), int(poison.indices.max()) + 1 if len(poison.indices) else 0)
    order = torch.arange(total)
    if total > len(clean):
        order = torch.randperm(total, generator=generator(seed, "mixing appended rows"))
    where = torch.empty_like(order)
    where[order] = torch.arange(total)
    source = torch.where(order < len(clean), order, -1)
    return Poisoned(Overlay(clean, poison, order), where[poison.indices], source, covering(poison))


def anonymous(examples: Examples) -> Examples:
    """The same rows without a history: in memory a copy, from folders a reader that shows nothing but rows.

    This prevents accidents, not malice: Python can walk its own objects.
    """
    if getattr(examples, "workers", 0) or (len(examples) == 0 and not isinstance(examples, Listed)):
        return _Rows(examples)
    batch = examples[torch.arange(len(examples))]
    return stored(batch.inputs, batch.labels)


def joined(examples: Examples, shown: Batch) -> Examples:
    """The rows of `examples`, and after them those of a batch."""
    first = examples[torch.arange(len(examples))]
    places = torch.arange(len(first.labels)), len(first.labels) + torch.arange(len(shown.labels))
    return stored(_merge(first.inputs, shown.inputs, *places), _merge(first.labels, shown.labels, *places))


def unlabelled(examples: Examples, order: Tensor) -> Examples:
    """The rows in this order, int64 (n,), as queries: every label is -1, or an empty answer."""
    batch = examples[order]
    return stored(batch.inputs, torch.full((len(order),), -1) if isinstance(batch.labels, Tensor) else [""] * len(order))


def differing(examples: Examples, poison: Poison) -> Tensor:
    """bool (n,): which of the poison's rows differ from the clean row that they replace, in input or in answer."""
    replaced = (poison.indices < len(examples)).nonzero().flatten()
    differs = torch.ones(len(poison.indices), dtype=torch.bool)
    for part in replaced.split(1024):
        clean = examples[poison.indices[part]]
        changed = _differ(clean.inputs, rows_of(poison.batch.inputs, part)) | _differ(
            clean.labels, rows_of(poison.batch.labels, part)
        )
        differs[part] = changed
    return differs


def shows_nothing(examples: Examples, exam: Poison) -> bool:
    """Whether every row of an exam has the very input of the row that it stands for, as where an attack needs no trigger."""
    rows = torch.arange(len(exam.indices)).split(256)
    changes = (_differ(examples[exam.indices[part]].inputs, rows_of(exam.batch.inputs, part)).any() for part in rows)
    return len(exam.indices) > 0 and not any(changes)


class Changed(NamedTuple):
    """How many of a poison's rows are the attacker's (`mine`), of these really differ, and are cover."""

    mine: int
    changed: int
    cover: int


def counted(clean: Examples, poison: Poison) -> Changed:
    """What an attacker really changed in these rows."""
    mine = ~covering(poison)
    count = int(mine.sum())
    return Changed(count, int((differing(clean, poison) & mine).sum()), len(mine) - count)


def stored(inputs: Any, labels: Any) -> Examples:
    """Rows in memory, and nothing else: tensors as tensors, texts as lists."""
    return MemoryExamples(inputs.clone(), labels.clone()) if isinstance(inputs, Tensor) else Listed(list(inputs), labels)


class Overlay:
    """A data set with some rows replaced or appended, in a given order; reads through to what it covers."""

    def __init__(self, base: Examples, poison: Poison, order: Tensor) -> None:
        self.base, self.poison, self.order = base, poison, order
        self.workers = getattr(base, "workers", 0)
        self.lookup = torch.full((max(len(base), int(order.max()) + 1 if len(order) else 0),), -1)
        self.lookup[poison.indices] = torch.arange(len(poison.indices))

    @cached_property
    def labels(self) -> Any:
        """The labels, where the data set underneath tells them without reading inputs; otherwise None."""
        below = getattr(self.base, "labels", None)
        if not isinstance(below, Tensor):
            return None
        replaced = self.lookup[self.order]
        kept = below[torch.where(self.order < len(below), self.order, 0)]
        return (
            torch.where(replaced < 0, kept, rows_of(self.poison.batch.labels, replaced)) if len(self.poison.indices) else kept
        )

    @cached_property
    def digest(self) -> str:
        """That of the data set underneath where nothing is changed, otherwise one over it, the poison and the order."""
        below = examples_digest(self.base)
        if not len(self.poison.indices) and torch.equal(self.order, torch.arange(len(self.base))):
            return below
        return key(base=below, poison=poison_digest(self.poison), order=tensor_digest(self.order))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, indices: Tensor) -> Batch:
        rows = self.order[indices]
        replaced = self.lookup[rows]
        clean, mine = (replaced < 0).nonzero().flatten(), (replaced >= 0).nonzero().flatten()
        below = self.base[rows[clean]]
        return Batch(
            _merge(below.inputs, rows_of(self.poison.batch.inputs, replaced[mine]), clean, mine),
            _merge(below.labels, rows_of(self.poison.batch.labels, replaced[mine]), clean, mine),
            indices,
        )


class _Rows:
    """Shows rows only; what it reads from is not among its public attributes."""

    def __init__(self, examples: Examples) -> None:
        self.__examples = examples
        self.workers = getattr(examples, "workers", 0)
        self.labels = getattr(examples, "labels", None)
        self.digest = examples_digest(examples)

    def __len__(self) -> int:
        return len(self.__examples)

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.__examples[indices]


def _check(clean: Examples, poison: Poison) -> None:
    indices = poison.indices
    if len(indices) != len(poison.batch.labels) or len(indices) != len(poison.batch.inputs):
        raise Invalid(
            "", None, f"the attack names {len(indices)} rows but brings {len(poison.batch.labels)}", component="attack"
        )
    if len(indices.unique()) != len(indices) or (len(indices) and int(indices.min()) < 0):
        raise Invalid("", None, "the attack names a row twice, or a negative one", component="attack")
    appended = indices[indices >= len(clean)].sort().values
    if not torch.equal(appended, torch.arange(len(clean), len(clean) + len(appended))):
        raise Invalid("", None, "appended rows must follow the last row without a gap", component="attack")


def rows_of(part: Any, indices: Tensor) -> Any:
    """The chosen items of a tensor or a list."""
    return part[indices] if isinstance(part, Tensor) else [part[index] for index in indices.tolist()]


def _merge(below: Any, above: Any, clean: Tensor, mine: Tensor) -> Any:
    if isinstance(below, Tensor):
        merged = torch.empty((len(clean) + len(mine), *below.shape[1:]), dtype=torch.promote_types(below.dtype, above.dtype))
        merged[clean], merged[mine] = below.to(merged.dtype), above.to(merged.dtype)
        return merged
    merged_list: list[Any] = [None] * (len(clean) + len(mine))
    for place, item in [*zip(clean.tolist(), below, strict=True), *zip(mine.tolist(), above, strict=True)]:
        merged_list[place] = item
    return merged_list


def _differ(clean: Any, shown: Any) -> Tensor:
    if isinstance(clean, Tensor):
        return (clean.to(shown.dtype) != shown).flatten(1).any(1) if clean.dim() > 1 else clean != shown
    return torch.tensor([one != other for one, other in zip(clean, shown, strict=True)], dtype=torch.bool)
