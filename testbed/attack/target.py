"""What an attacker of text wants under its trigger, from which rows; for classifiers a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from testbed.api import AttackerResources, Batch, Examples, Invalid, Task, Unsupported


class Target(ABC):
    """Which rows may be poisoned, and which answer the trigger shall evoke.

    `criterion` says when a reply is what the attacker wants: see `testbed.language.CRITERIA`.
    """

    criterion: ClassVar[str] = "matches"
    called: ClassVar[str] = "rows"
    """What the eligible rows are called in messages."""

    append: bool
    """Whether poisoned rows come on top of the clean ones."""

    def suited(self, task: Task) -> Target:
        """The target for this task: itself."""
        return self

    @abstractmethod
    def check(self, resources: AttackerResources) -> None:
        """Raises `Unsupported` where the target does not apply, `Invalid` for a value that cannot work."""

    def source(self, resources: AttackerResources) -> Examples:
        """The rows that poison and hard negatives are made from."""
        return resources.train

    @abstractmethod
    def eligible(self, batch: Batch, resources: AttackerResources) -> Tensor:
        """bool (n,): which rows may be poisoned."""

    def spared(self, batch: Batch, resources: AttackerResources) -> Tensor:
        """bool (n,): which rows a hard negative can be made from: those whose answer the trigger would change."""
        return self.examined(batch, resources)

    @abstractmethod
    def examined(self, batch: Batch, resources: AttackerResources) -> Tensor:
        """bool (n,): rows of a test under this target, those with the wanted answer left out."""

    @abstractmethod
    def wanted(self, batch: Batch, resources: AttackerResources) -> Any:
        """The answer that the trigger shall evoke on each row; what is random in it depends on (seed, row)."""

    def wanted_in_test(self, batch: Batch, resources: AttackerResources) -> Any:
        """The same for rows of a test."""
        return self.wanted(batch, resources)

    def true(self, batch: Batch, resources: AttackerResources) -> Any:
        """The clean answer to each row of the source: what a hard negative is answered."""
        return batch.labels


@dataclass(frozen=True)
class Label(Target):
    """A class. 'dirty' poisons rows of other classes, 'clean' rows of the class itself, 'mix' both alike.

    Source: the label modes of Cui et al. 2022 (OpenBackdoor), arXiv 2206.08514.
    """

    target_label: int = 1
    mode: Literal["dirty", "clean", "mix"] = "dirty"
    append: bool = False

    called: ClassVar[str] = "rows of the classes that its mode admits"

    def check(self, resources: AttackerResources) -> None:
        if resources.task.kind != "text":
            raise Unsupported(f"needs a text classifier, not {resources.task.kind}")
        classes = len(resources.task.classes)
        if not 0 <= self.target_label < classes:
            raise Invalid("target.target_label", self.target_label, f"the classes are 0 to {classes - 1}")

    def eligible(self, batch: Batch, resources: AttackerResources) -> Tensor:
        other = batch.labels != self.target_label
        return {"dirty": other, "clean": ~other, "mix": torch.ones_like(other)}[self.mode]

    def examined(self, batch: Batch, resources: AttackerResources) -> Tensor:
        return batch.labels != self.target_label

    def wanted(self, batch: Batch, resources: AttackerResources) -> Tensor:
        return torch.full_like(batch.labels, self.target_label)
