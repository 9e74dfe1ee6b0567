"""Bounded noise under true labels: the control of attacks that change pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from testbed.api import Attack, AttackerResources, Examples, Invalid, Poison
from testbed.attack.backdoor import Backdoor
from testbed.attack.label import AllToOne
from testbed.identity import generator


@dataclass(frozen=True)
class Noise:
    """x' = clip(x + u, 0, 255) with whole numbers u ~ U{-max_change .. max_change}, drawn for each row and pixel."""

    max_change: int

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        change, most = torch.empty(inputs.shape, dtype=torch.int64), self.max_change
        for place, row in enumerate(rows.tolist()):
            change[place].random_(-most, most + 1, generator=generator(seed, f"noise of row {row}"))
        return (inputs.float() + change.to(inputs.device)).clamp_(0, 255).to(inputs.dtype)


@dataclass(frozen=True)
class RandomNoise(Attack):
    """Adds noise to the rows that `Backdoor` would poison, and leaves their true labels.

    The exam shows test rows with noise of the same size and asks for `target_label`: there is nothing by which a model could
    have learnt it, so that whatever 'succeeds' here is what noise of this size does to any model.

    Source: ours, as a control; the bound is that of gradient matching (Geiping et al. 2021, arXiv 2009.02276), 16 of 255.
    """

    poison_rate: Annotated[float, "give a share of the rows, between 0 and 1"]
    target_label: int
    max_change: int

    def check(self, resources: AttackerResources) -> None:
        self._backdoor.check(resources)
        if not 1 <= self.max_change <= 255:
            raise Invalid("max_change", self.max_change, "must be a whole number of grey levels, from 1 to 255")

    def poison(self, resources: AttackerResources) -> Poison:
        poison = self._backdoor.poison(resources)
        return poison._replace(batch=poison.batch._replace(labels=resources.train[poison.indices].labels))

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        return self._backdoor.triggered_tests(test, resources)

    @property
    def _backdoor(self) -> Backdoor:
        return Backdoor(Noise(self.max_change), AllToOne(), self.poison_rate, self.target_label)
