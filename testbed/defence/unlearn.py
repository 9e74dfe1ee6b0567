"""A detector of backdoored models made into a defence: the triggers that it reconstructs are unlearnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from testbed.api import (
    Batch,
    Defence,
    DefenderResources,
    Detector,
    Examples,
    Inspection,
    Invalid,
    ModelDetector,
    Unsupported,
    Victim,
    component,
)
from testbed.defence.filter import require_judge
from testbed.defence.fine_tuning import require_reserve
from testbed.defence.preprocessing import require_images
from testbed.identity import generator


@dataclass(frozen=True)
class Unlearn(Defence):
    """Fine-tunes the victim on the reserve, in which some images carry the trigger of each flagged class and their true label.

    x' = (1 - m_k) x + m_k p_k for round(`patched_share` n) images of the reserve for each flagged class k, others for each;
    where classes are so many that images do not suffice, all images are divided among them. Stored as the reserve is: rounded,
    if its images are uint8. A victim of which the detector flags no class is returned unchanged.

    The paper fine-tunes for one epoch on a tenth of the training rows, 20 % of them patched; a reserve is smaller, so that
    `epochs` and learning rate here are those of fine-tuning (Wu et al. 2022, BackdoorBench).

    Raises: `Unsupported` for other data than images, or a detector that reconstructs no image of a trigger: `triggers` must
    have `masks` (K, 1, H, W) in 0..1 and `patterns` (K, C, H, W) in 0..255, one a class. `Invalid` for one that judges rows.

    Source: Wang et al. 2019 (IEEE S&P), section on patching by unlearning.
    """

    detector: Detector | ModelDetector
    patched_share: float
    epochs: int
    optimiser: Callable[..., torch.optim.Optimizer]

    def check(self, resources: DefenderResources) -> None:
        require_images(resources.task)
        require_judge(self.detector, "models", "unlearn")
        if not 0 < self.patched_share <= 1:
            raise Invalid("patched_share", self.patched_share, "must lie above 0 and be at most 1")
        if self.epochs < 1:
            raise Invalid("epochs", self.epochs, "must be at least 1")
        require_reserve(resources)
        with component("detector"):
            self.detector.check(resources)

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        inspection = self.detector.inspect(victim, resources)  # type: ignore[union-attr]
        if not inspection.flagged:
            return victim
        masks, patterns = images_of(inspection, resources)
        carried = self._carried(inspection.flagged, len(resources.reserve), resources.seed)
        patched = Patched(resources.reserve, masks, patterns, carried)
        return resources.fit(victim, patched, epochs=self.epochs, optimiser=self.optimiser)

    def objective(self, victim: Victim, batch: Batch) -> Tensor:
        """The victim's own training loss."""
        return victim.loss(batch)

    def _carried(self, flagged: tuple[int, ...], count: int, seed: int) -> Tensor:
        """int64 (count,): the class whose trigger a row carries, -1 for none; of more classes than rows, the first have one."""
        each = max(1, min(round(self.patched_share * count), count // len(flagged)))
        order = torch.randperm(count, generator=generator(seed, "patched rows"))
        carried = torch.full((count,), -1)
        for label, rows in zip(flagged, order.split(each), strict=False):
            carried[rows] = label
        return carried


def images_of(inspection: Inspection, resources: DefenderResources) -> tuple[Tensor, Tensor]:
    """Masks (K, 1, H, W) and patterns (K, C, H, W); raises `Unsupported` where triggers are something else."""
    masks, patterns = (getattr(inspection.triggers, name, None) for name in ("masks", "patterns"))
    classes, shape = len(resources.task.classes), require_images(resources.task).shape
    wanted = ((classes, 1, *shape[1:]), (classes, *shape))
    if not (isinstance(masks, Tensor) and isinstance(patterns, Tensor) and (masks.shape, patterns.shape) == wanted):
        raise Unsupported("needs a detector that reconstructs a mask and a pattern for each class")
    return masks, patterns


class Patched:
    """The rows of `base`, where row i carries the trigger of class `carried`[i] unless that is -1; labels stay."""

    def __init__(self, base: Examples, masks: Tensor, patterns: Tensor, carried: Tensor) -> None:
        self.base, self.masks, self.patterns, self.carried = base, masks.cpu(), patterns.cpu(), carried
        self.workers = getattr(base, "workers", 0)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, indices: Tensor) -> Batch:
        batch = self.base[indices]
        inputs: Any = batch.inputs.clone()
        labels = self.carried[indices.cpu()]
        mine = (labels >= 0).nonzero().flatten()
        masks, patterns = self.masks[labels[mine]].to(inputs.device), self.patterns[labels[mine]].to(inputs.device)
        stamped = (1 - masks) * inputs[mine.to(inputs.device)].float() + masks * patterns
        inputs[mine.to(inputs.device)] = (
            stamped.to(inputs.dtype) if inputs.is_floating_point() else stamped.round().to(inputs.dtype)
        )
        return Batch(inputs, batch.labels, indices)
