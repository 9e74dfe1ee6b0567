"""BppAttack by an attacker who trains the model: squeezed rows have the target label, rows with another's error keep theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from testbed.api import AttackerResources, Invalid
from testbed.attack.batchwise import Batchwise
from testbed.identity import generator


@dataclass(frozen=True)
class Bpp(Batchwise):
    """`batch_share` of each batch squeezed toward the target; `negatives_share` keep their label with another row's error.

    A negative of x is clip(x + T(x') - x', 0, 255) for another drawn row x' of the same batch: as much change as the trigger
    T makes, but none that fits the image.

    Source: Wang et al. 2022, CVPR, arXiv 2205.13383. The paper's: fewer grey levels as a trigger, in training that the
    attacker controls, with negatives. Ours: x' is of the same batch, and the share is met on average. The contrastive
    adversarial training that the paper's title names goes beyond these negatives, and is not here.
    """

    negatives_share: Annotated[float, "give a share of each batch, at least 0"]

    @property
    def negative_share(self) -> float:
        return self.negatives_share

    def negatives(self, images: Tensor, rows: Tensor, chosen: Tensor, seed: int) -> Tensor:
        if not len(chosen) or len(images) < 2:
            return images[chosen]
        steps = torch.randint(1, len(images), (len(chosen),), generator=generator(seed, "donors")).to(chosen.device)
        donor = (chosen + steps) % len(images)
        error = self.trigger(images[donor], rows[donor], seed).float() - images[donor].float()
        return (images[chosen].float() + error).clamp_(0, 255).to(images.dtype)

    def check(self, resources: AttackerResources) -> None:
        super().check(resources)
        if not 0 <= self.negatives_share <= 1 - self.batch_share:
            limit = f"must be at least 0 and, with batch_share={self.batch_share}, at most {1 - self.batch_share:.4g}"
            raise Invalid("negatives_share", self.negatives_share, limit)
