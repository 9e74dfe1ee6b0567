"""SCALE-UP: an image with a trigger keeps its class when all its pixels are multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Invalid, Victim
from testbed.detector.requirement import require_images, require_reserve
from testbed.features import batches, evaluating, on_device, progress

BATCH = 256


@dataclass(frozen=True)
class ScaleUp(Detector):
    """Score `(1/|S|) sum_{s in S} [argmax f(clip(s x, 0, 255)) = argmax f(x)]`, S the `scales`: scaled prediction consistency.

    With `normalised` (the paper's data-limited setting) the score is `(SPC(x) - mean_c) / deviation_c`, over the images of the
    clean reserve that the model answers with the same class c; over the whole reserve where fewer than two are, and with a
    deviation of 1 where all of them have the same SPC. Flagged are scores above `threshold`, for both scores the same number.

    Source: Guo, Li, Chen, Guo, Sun and Liu 2023 (ICLR, arXiv 2302.03251).
    """

    scales: Sequence[float] = (3, 5, 7, 9, 11)
    threshold: float = 0.5
    normalised: bool = False

    judges: ClassVar[frozenset[str]] = frozenset({"queries"})

    def check(self, resources: DefenderResources) -> None:
        require_images(resources.task)
        if not self.scales or not min(self.scales) > 0:
            raise Invalid("scales", list(self.scales), "one factor above 0 or more", "the paper's are 3, 5, 7, 9 and 11")
        lowest = -1.0 if not self.normalised else -torch.inf
        if not lowest < self.threshold < (1 if not self.normalised else torch.inf):
            raise Invalid("threshold", self.threshold, "must lie between -1 and 1", "it is a share of the scales")
        if self.normalised:
            require_reserve(resources, 2)

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,), in 0..1; with `normalised` in deviations of clean images of the same answer."""
        consistency, answers = scaled_consistency(victim, examples, self.scales)
        if not self.normalised:
            return consistency
        clean, classes = scaled_consistency(victim, resources.reserve, self.scales)
        scores = torch.empty_like(consistency)
        for answer in answers.unique():
            alike = clean[classes == answer]
            alike = alike if len(alike) > 1 else clean
            deviation = alike.std(correction=0)
            scores[answers == answer] = (consistency[answers == answer] - alike.mean()) / (deviation if deviation > 0 else 1.0)
        return scores

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """Scores above `threshold`."""
        return scores > self.threshold


@torch.no_grad()
def scaled_consistency(victim: Victim, examples: Examples, scales: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The share of the scales under which an image (0..255) keeps its class, float64 (n,), and that class int64 (n,)."""
    shares, answers = [], []
    with evaluating(victim):
        for batch in progress(batches(examples, BATCH), "SCALE-UP", -(-len(examples) // BATCH)):
            images = on_device(batch.inputs, victim.device).float()
            given = victim(images).argmax(1)
            kept = [victim((scale * images).clamp(0, 255)).argmax(1) == given for scale in scales]
            shares.append(torch.stack(kept).double().mean(0).cpu())
            answers.append(given.cpu())
    return torch.cat(shares), torch.cat(answers)
