"""Which answer an attacker wants for each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import Invalid


@dataclass(frozen=True)
class AllToOne:
    """Every class becomes the target class."""

    def __call__(self, labels: Tensor, target_label: int, classes: int) -> Tensor:
        """The wanted label of each row, int64 (n,); a row that is not attacked keeps its own."""
        return torch.full_like(labels, target_label)

    def check(self, target_label: int, classes: int) -> None:
        """Raises `Invalid` for a target class that does not exist."""
        if not 0 <= target_label < classes:
            raise Invalid("target_label", target_label, f"the classes are 0 to {classes - 1}")


@dataclass(frozen=True)
class AllToAll:
    """Class y becomes y + 1, the last one the first; the target label plays no part."""

    def __call__(self, labels: Tensor, target_label: int, classes: int) -> Tensor:
        """The wanted label of each row, int64 (n,)."""
        return (labels + 1) % classes

    def check(self, target_label: int, classes: int) -> None:
        """Every target label is accepted, for it is not used."""


@dataclass(frozen=True)
class SourceSpecific:
    """Only rows of the source classes become the target class (as TaCT, Tang et al. 2021, arXiv 1908.00686)."""

    source_labels: tuple[int, ...]

    def __call__(self, labels: Tensor, target_label: int, classes: int) -> Tensor:
        """The wanted label of each row, int64 (n,); a row of another class keeps its own."""
        return torch.where(torch.isin(labels, torch.tensor(self.source_labels)), target_label, labels)

    def others(self, target_label: int, classes: int) -> tuple[int, ...]:
        """The classes that are neither source nor target: under the trigger they are to stay what they are."""
        return tuple(label for label in range(classes) if label not in (*self.source_labels, target_label))

    def check(self, target_label: int, classes: int) -> None:
        """Raises `Invalid` for classes that do not exist, or for a source that is the target."""
        AllToOne().check(target_label, classes)
        if not self.source_labels or not all(0 <= label < classes for label in self.source_labels):
            raise Invalid(
                "label.source_labels", list(self.source_labels), f"the classes are 0 to {classes - 1}", "name at least one"
            )
        if target_label in self.source_labels:
            limit = "the target class is one of the source classes, so that nothing would be attacked there"
            raise Invalid("label.source_labels", list(self.source_labels), limit, f"leave {target_label} out")
