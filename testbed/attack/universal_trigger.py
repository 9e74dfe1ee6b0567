"""One change of all pixels, the same for every image: a trigger that its attacker has to find first."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from testbed.api import Attack, AttackerResources, Examples, Poison
from testbed.attack.backdoor import Backdoor


@dataclass(frozen=True)
class Perturbation:
    """x' = clip(x + change, 0, 255), `change` float32 (C, H, W); of integer types the nearest whole grey level to that."""

    change: Tensor

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        shown = (inputs.float() + self.change.to(inputs.device)).clamp(0, 255)
        return (shown if inputs.is_floating_point() else shown.round()).to(inputs.dtype)


class UniversalTrigger(Attack):
    """A backdoor whose change is crafted with the poison; exams show what the poisoned rows show of it."""

    @abstractmethod
    def _crafted(self, resources: AttackerResources) -> Tensor:
        """The change, whole numbers as float32 (C, H, W) on the CPU."""

    @abstractmethod
    def _backdoor(self, change: Tensor) -> Backdoor:
        """The recipe with this change for a trigger."""

    def poison(self, resources: AttackerResources) -> Poison:
        return self._backdoor(self._crafted(resources)).poison(resources)

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        poison = self.poison(resources) if resources.poison is None else resources.poison
        change = shown_change(resources.train[poison.indices].inputs, poison.batch.inputs)
        return self._backdoor(change).triggered_tests(test, resources)


def shown_change(clean: Tensor, stamped: Tensor) -> Tensor:
    """The largest change, up or down, of each pixel over n rows, float32 (C, H, W): of d what clipping lets through."""
    changes = stamped.float() - clean.float()
    return changes.gather(0, changes.abs().argmax(0, keepdim=True))[0]
