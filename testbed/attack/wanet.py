"""WaNet by an attacker who trains the model: warped rows have the target label, rows warped with noise keep their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from testbed.api import AttackerResources, Examples, Invalid, Poison, Trigger
from testbed.attack.batchwise import Batchwise
from testbed.identity import derive


@dataclass(frozen=True)
class WaNet(Batchwise):
    """`batch_share` of each batch warped toward the target, `cross_ratio` times as many warped with noise and true labels.

    The second exam, 'noise', shows the noisy warp and asks for the target: a near miss that should fail.

    Source: Nguyen and Tran 2021, arXiv 2102.10369. The paper's: the warp, the two shares, other rows in every batch. Ours:
    warped pixels are rounded as stored ones, the share is met on average where the paper rounds down, and the victim's own
    augmentation takes the place of the paper's crops, rotations and flips.
    """

    noise_trigger: Trigger
    cross_ratio: float

    @property
    def negative_share(self) -> float:
        return self.cross_ratio * self.batch_share

    def negatives(self, images: Tensor, rows: Tensor, chosen: Tensor, seed: int) -> Tensor:
        return self.noise_trigger(images[chosen], rows[chosen], seed)

    def check(self, resources: AttackerResources) -> None:
        super().check(resources)
        if not 0 <= self.cross_ratio < math.inf:
            raise Invalid("cross_ratio", self.cross_ratio, "must be at least 0")
        if self.batch_share + self.negative_share > 1:
            limit = f"with batch_share={self.batch_share} more than the whole batch would be warped"
            raise Invalid("cross_ratio", self.cross_ratio, limit, f"at most {1 / self.batch_share - 1:.4g} works here")
        if hasattr(self.noise_trigger, "check"):
            self.noise_trigger.check(resources.task)

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        exams = super().triggered_tests(test, resources)
        rows, wanted = exams["success"].indices, exams["success"].batch
        noisy = self.noise_trigger(test[rows].inputs, rows, derive(resources.seed, "noise at test time"))
        return {**exams, "noise": Poison(rows, wanted._replace(inputs=noisy))}
