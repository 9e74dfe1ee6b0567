"""What every classifier of texts shares: its loss, its layers, and a count of the texts that were too long for it."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from testbed.api import Batch, Invalid, Task, Unreadable, Victim
from testbed.features import require_layer


class TextVictim(Victim):
    """A classifier of texts: inputs are a list of `str`, labels int64 (B,). `max_length` is in the model's own tokens.

    A longer text is cut at its end; how many different ones were is counted, and said once.

    Raises:
        Unreadable: the data are no texts.
        Invalid: `max_length` is not positive.
    """

    def __init__(self, task: Task, *, max_length: int) -> None:
        super().__init__()
        if task.kind != "text":
            raise Unreadable("", None, f"the model reads texts, and the data are {task.kind}", "choose data of texts")
        if max_length < 1:
            raise Invalid("max_length", max_length, "must be at least 1")
        self.task, self.max_length = task, max_length
        self._cut: set[int] = set()

    @abstractmethod
    def read(self, inputs: Sequence[str], layer: str) -> tuple[Tensor, Tensor]:
        """What a layer gave, float (B, d), and the logits (B, K)."""

    def forward(self, inputs: Sequence[str]) -> Tensor:
        """Logits float (B, K)."""
        return self.read(inputs, "penultimate")[1]

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross entropy."""
        logits = self(batch.inputs)
        return functional.cross_entropy(logits, batch.labels.to(logits.device))

    def features(self, inputs: Any, layer: str) -> Tensor:
        """float (B, d): the mean over a text's tokens of what the layer gave, or what the final linear layer reads."""
        return self.observe(inputs, layer)[0]

    def observe(self, inputs: Any, layer: str) -> tuple[Tensor, Tensor]:
        """The same and the logits, in one pass."""
        require_layer(self, layer)
        return self.read(inputs, layer)

    @property
    def truncated(self) -> int:
        """How many different texts have been cut so far."""
        return len(self._cut)

    def count_cut(self, texts: Iterable[str]) -> None:
        """Remember these texts as cut, and say so the first time."""
        self._cut.update(map(hash, texts))
        if self._cut:
            announce(self.max_length)

    def metadata(self) -> dict[str, str]:
        """What a saved file must say beside its tensors: where texts are cut, and how many were while it was trained."""
        return {"max_length": str(self.max_length), "truncated": str(self.truncated)}


@cache
def announce(max_length: int) -> None:
    """Say once that texts are cut; a run has many copies of its victim."""
    print(f"model.max_length={max_length}: longer texts are cut at their end", file=sys.stderr)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """float (B, d): the mean of `values` (B, T, d) over the tokens that `mask` bool (B, T) keeps."""
    kept = mask.to(values.dtype)[..., None]
    return (values * kept).sum(1) / kept.sum(1).clamp(min=1)


def require_finite_share(name: str, value: float) -> None:
    """Refuse what is no share in [0, 1)."""
    if not 0 <= value < 1:
        raise Invalid(name, value, "must be at least 0 and below 1")


def require_positive(**numbers: int) -> None:
    """Refuse numbers below 1."""
    for name, value in numbers.items():
        if value < 1:
            raise Invalid(name, value, "must be at least 1")


def padded(rows: Sequence[Sequence[int]], filler: int, device: torch.device) -> Tensor:
    """int64 (B, longest), filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], device=device)
