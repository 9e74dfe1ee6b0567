"""Neural Cleanse: a backdoored class can be reached from everywhere by a much smaller patch than the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from testbed.api import DefenderResources, Inspection, ModelDetector, Unsupported, Victim
from testbed.detector.requirement import (
    require_above,
    require_at_least,
    require_between,
    require_images,
    require_reserve,
)
from testbed.features import batches, on_device, progress
from testbed.numerics.outliers import anomaly_index
from testbed.numerics.trigger_inversion import Inversion, invert_triggers

NUMBERS_AT_ONCE = 2**20
"""Input values in one step: 341 images of 3 x 32 x 32, whose activations are kept for the gradient."""

FEWEST_CLASSES = 3
SMALLEST = 0.01
"""Pixels: a mask below this is as good as none."""


@dataclass(frozen=True)
class NeuralCleanse(ModelDetector):
    """Inverts a patch for every class on the clean reserve; a class with an outstandingly small mask is called a target.

    Scores: `(median - |m_k|_1) / (1.4826 MAD)` over the classes, so that small masks score high. Flagged: scores above
    `index_threshold`. `absolute`: `-log |m_k|_1`. `triggers` are `InvertedTriggers`: masks (K, 1, H, W), patterns (K, C, H, W)
    in 0..255 and their success rates. A class that never reached `success_threshold` enters with its last mask.

    Defaults of the authors' code, except `epochs`, passes over the reserve: theirs are at most 1000, with the same early end.

    Source: Wang et al. 2019 (IEEE S&P).
    """

    epochs: int = 80
    batch_size: int = 32
    learning_rate: float = 0.1
    initial_cost: float = 0.001
    patience: int = 5
    success_threshold: float = 0.99
    index_threshold: float = 2.0

    def check(self, resources: DefenderResources) -> None:
        task = require_images(resources.task)
        if len(task.classes) < FEWEST_CLASSES:
            raise Unsupported(f"needs at least {FEWEST_CLASSES} classes: each is compared with the median of all")
        require_reserve(resources, 1)
        for parameter in ("epochs", "batch_size", "patience"):
            require_at_least(parameter, getattr(self, parameter), 1)
        for parameter in ("learning_rate", "initial_cost", "index_threshold"):
            require_above(parameter, getattr(self, parameter), 0)
        require_between("success_threshold", self.success_threshold, 0, 1)

    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        """Scores float64 (K,); the victim is read in evaluation mode and left as it was."""
        images = torch.cat([batch.inputs for batch in batches(resources.reserve, 256)])
        triggers = invert_triggers(
            victim,
            on_device(images, victim.device),
            range(len(resources.task.classes)),
            self._inversion(),
            generator=torch.Generator().manual_seed(resources.seed),
            classes_at_once=max(1, NUMBERS_AT_ONCE // images[: self.batch_size].numel()),
            watch=lambda passes: progress(passes, "Neural Cleanse"),
        )
        scores = anomaly_index(triggers.sizes)
        flagged = tuple(torch.nonzero(scores > self.index_threshold).flatten().tolist())
        return Inspection(scores, flagged, triggers, absolute=-triggers.sizes.double().clamp(min=SMALLEST).log())

    def _inversion(self) -> Inversion:
        return Inversion(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            initial_cost=self.initial_cost,
            patience=self.patience,
            success_threshold=self.success_threshold,
        )
