"""TeCo: an image with a trigger withstands some corruptions much better than others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Invalid, Victim
from testbed.detector.corruption import KINDS, corrupt
from testbed.detector.requirement import require_images
from testbed.features import batches, evaluating, on_device, progress

SEVERITIES = 5
BATCH = 256


@dataclass(frozen=True)
class TeCo(Detector):
    """Score: the standard deviation, over kinds of corruption, of the least severity that changes the model's answer.

    Severities are 1 to 5, and 6 where the answer survives all of them; `corruptions` names two or more of the fifteen kinds
    (`testbed.detector.corruption` says which are approximations). Only the answers of the model are used, and nothing clean.
    The paper gives no threshold: it reports the area under the curve.

    Source: Liu, Li, Wang, Hu, Ye, Jin, Wu and Xiao 2023 (CVPR, arXiv 2303.18191).
    """

    corruptions: Sequence[str] = tuple(KINDS)

    judges: ClassVar[frozenset[str]] = frozenset({"queries"})

    def check(self, resources: DefenderResources) -> None:
        require_images(resources.task)
        unknown = [kind for kind in self.corruptions if kind not in KINDS]
        if unknown or len(set(self.corruptions)) < 2:
            shown = unknown or list(self.corruptions)
            raise Invalid("corruptions", shown, "two or more of the fifteen kinds", f"there are {', '.join(KINDS)}")

    @torch.no_grad()
    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,), from 0 to 2.5."""
        scores = []
        with evaluating(victim):
            for batch in progress(batches(examples, BATCH), "TeCo", -(-len(examples) // BATCH)):
                images = on_device(batch.inputs, victim.device).float() / 255
                changes = [first_changes(victim, images, kind, resources.seed) for kind in self.corruptions]
                scores.append(torch.stack(changes).double().std(0, correction=0))
        return torch.cat(scores)


def first_changes(victim: Victim, images: Tensor, kind: str, seed: int) -> Tensor:
    """int64 (B,) on the CPU: the least severity, 1 to 5, at which images (0..1) are answered otherwise; 6 if there is none."""
    given = victim(255 * images).argmax(1)
    changed = torch.stack(
        [victim(255 * corrupt(images, kind, level, seed)).argmax(1) != given for level in range(1, SEVERITIES + 1)]
    )
    never = torch.ones_like(changed[:1])
    return torch.cat([changed, never]).int().argmax(0).cpu() + 1
