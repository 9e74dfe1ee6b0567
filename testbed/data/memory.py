"""Examples that lie in memory as tensors, and views of chosen rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from testbed.api import Batch, Examples, Invalid


class LabelledExamples(Examples, Protocol):
    """Examples whose labels can be read without reading their inputs, and of which rows can be taken."""

    @property
    def labels(self) -> Tensor: ...

    @property
    def digest(self) -> str: ...

    def take(self, indices: Tensor) -> LabelledExamples: ...


def check_indices(indices: Tensor, length: int) -> Tensor:
    """The same int64 (B,) indices.

    Raises:
        TypeError: they are not a tensor int64 (B,).
        IndexError: one of them lies outside 0..length - 1. Negative ones do not count from the end.
    """
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64 or indices.ndim != 1:
        raise TypeError("examples are read with a tensor of indices, int64 (B,)")
    if indices.numel():
        lowest, highest = (int(bound) for bound in indices.aminmax())
        if lowest < 0 or highest >= length:
            raise IndexError(f"indices {lowest}..{highest} are outside the {length} rows there are")
    return indices


def select(values: Tensor, indices: Tensor) -> Tensor:
    """Rows of `values`: a view where `indices` are consecutive, otherwise a copy."""
    count = indices.numel()
    if count:
        first = int(indices[0])
        if int(indices[-1]) - first == count - 1 and torch.equal(indices.cpu(), torch.arange(first, first + count)):
            return values[first : first + count]
    return values[indices.to(values.device)]


@dataclass(frozen=True, eq=False)
class MemoryExamples:
    """Images and labels as two tensors: `inputs` uint8 (or float32 in 0..255) (N, C, H, W), `labels` int64 (N,).

    A batch of consecutive rows is a view: whoever changes images copies them first.

    Raises:
        Invalid: the tensors have other shapes or types.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.inputs.ndim != 4 or self.inputs.dtype not in (torch.uint8, torch.float32):
            shown = f"{self.inputs.dtype} {tuple(self.inputs.shape)}"
            raise Invalid("inputs", shown, "images are uint8 (or float32 in 0..255) of shape (N, C, H, W)", "convert them")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1]:
            shown = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise Invalid("labels", shown, f"labels are int64 of shape ({len(self.inputs)},)", "give one class for each image")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Batch:
        check_indices(indices, len(self))
        return Batch(select(self.inputs, indices), select(self.labels, indices), indices)

    def take(self, indices: Tensor) -> MemoryExamples:
        """The chosen rows, int64 (n,), copied into examples of their own."""
        check_indices(indices, len(self))
        chosen = indices.to(self.inputs.device)
        return MemoryExamples(self.inputs[chosen], self.labels[chosen])

    def to(self, device: torch.device | str) -> MemoryExamples:
        """The same rows on another device."""
        return MemoryExamples(self.inputs.to(device), self.labels.to(device))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shapes, types and bytes, wherever the tensors lie."""
        state = hashlib.sha256()
        for values in (self.inputs, self.labels):
            state.update(f"{values.dtype} {tuple(values.shape)}\n".encode())
            state.update(values.cpu().contiguous().numpy().data)
        return state.hexdigest()


@dataclass(frozen=True, eq=False)
class Subset:
    """A view of the rows `indices`, int64 (n,), of any examples; its own rows count from 0."""

    base: Any
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: Tensor) -> Batch:
        check_indices(indices, len(self))
        batch = self.base[self.indices[indices]]
        return Batch(batch.inputs, batch.labels, indices)

    @property
    def labels(self) -> Tensor:
        """int64 (n,): the labels, where the base can tell them without reading its inputs."""
        return self.base.labels[self.indices.to(self.base.labels.device)]

    @property
    def workers(self) -> int:
        """How many processes the base asks to be read with."""
        return getattr(self.base, "workers", 0)

    def take(self, indices: Tensor) -> Subset:
        """A view of the chosen rows, int64 (n,), of this view."""
        return Subset(self.base, self.indices[check_indices(indices, len(self))])

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the digest of the base and the indices."""
        state = hashlib.sha256(f"subset of {self.base.digest}\n".encode())
        state.update(self.indices.cpu().contiguous().numpy().data)
        return state.hexdigest()
