"""Examples that lie in memory as lists: texts and conversations, with classes or answers as labels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from testbed.api import Batch, Invalid
from testbed.data.memory import check_indices


@dataclass(frozen=True, eq=False)
class Listed:
    """Rows whose inputs are a list (`str`, or tuples of messages); `labels` are int64 (N,) or a list of answers.

    Raises:
        Invalid: there are not as many labels as inputs.
    """

    inputs: list[Any]
    labels: Any

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise Invalid("labels", len(self.labels), f"there are {len(self.inputs)} inputs", "give one label for each")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Batch:
        check_indices(indices, len(self))
        return Batch(_chosen(self.inputs, indices), _chosen(self.labels, indices), indices)

    def take(self, indices: Tensor) -> Listed:
        """The chosen rows, int64 (n,), as examples of their own."""
        return Listed(*self[indices][:2])

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every input and label as JSON."""
        state = hashlib.sha256()
        labels = self.labels.tolist() if isinstance(self.labels, Tensor) else self.labels
        for row in zip(self.inputs, labels, strict=True):
            state.update(json.dumps(row).encode() + b"\n")
        return state.hexdigest()


def _chosen(part: Any, indices: Tensor) -> Any:
    return part[indices] if isinstance(part, Tensor) else [part[index] for index in indices.tolist()]


def nothing(like: Listed) -> Listed:
    """No rows, of the same kind."""
    return like.take(torch.arange(0))
