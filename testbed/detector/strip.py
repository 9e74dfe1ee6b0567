"""STRIP: an image with a strong trigger keeps its class, whatever clean image is laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Invalid, Victim
from testbed.detector.requirement import require_at_least, require_between, require_images, require_reserve
from testbed.features import batches, evaluating, on_device, progress

CPU_NUMBERS, ACCELERATOR_NUMBERS = 2**18, 2**22
"""Input values in one forward pass, unless a single query has more: a processor's cache is small, an accelerator is wide."""


@dataclass(frozen=True)
class Strip(Detector):
    """Score `-(1/N) sum_i H(softmax f(clip(a x + b o_i, 0, 255)))`, H the entropy in bits, over N clean overlays o_i.

    `superposition` is (a, b): (1, 1) adds the pixels, as in the authors' code; (0.5, 0.5) averages them, which may rank the
    other way round. The `overlays` images come from the clean reserve by seed and are the same for every query. The published
    rule rejects queries below the `false_rejection_rate` quantile of a normal distribution fitted to the entropies of the
    reserve (among which are the overlays themselves).

    Source: Gao et al. 2019 (ACSAC, arXiv 1902.06531).
    """

    overlays: int = 100
    superposition: Sequence[float] = (1.0, 1.0)
    false_rejection_rate: float = 0.01

    judges: ClassVar[frozenset[str]] = frozenset({"queries"})

    def check(self, resources: DefenderResources) -> None:
        require_images(resources.task)
        require_reserve(resources, 2)
        require_at_least("overlays", self.overlays, 1)
        require_between("false_rejection_rate", self.false_rejection_rate, 0, 1)
        if len(self.superposition) != 2 or not min(self.superposition) > 0:
            raise Invalid("superposition", self.superposition, "two weights above 0", "the query's, then the overlay's")
        if self.overlays > len(resources.reserve):
            limit = f"the reserve has {len(resources.reserve)} images"
            raise Invalid("overlays", self.overlays, limit, "use fewer overlays, or give the data a larger reserve")

    @torch.no_grad()
    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float32 (n,), minus the mean entropy in bits: from -log2(classes) to 0."""
        overlays = self._overlays(victim, resources)
        numbers = CPU_NUMBERS if overlays.device.type == "cpu" else ACCELERATOR_NUMBERS
        queries_at_once = max(1, numbers // overlays.numel())
        scores = []
        with evaluating(victim):
            for batch in progress(batches(examples, queries_at_once), "STRIP", -(-len(examples) // queries_at_once)):
                queries = on_device(batch.inputs, victim.device).float()
                scores.append(-mean_entropy(victim, queries, overlays, self.superposition).cpu())
        return torch.cat(scores)

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """Scores above the `1 - false_rejection_rate` quantile of the normal distribution fitted to the reserve's scores."""
        clean = self.score(resources.reserve, victim, resources)
        return scores > upper_quantile(clean, self.false_rejection_rate)

    def _overlays(self, victim: Victim, resources: DefenderResources) -> Tensor:
        order = torch.randperm(len(resources.reserve), generator=torch.Generator().manual_seed(resources.seed))
        return on_device(resources.reserve[order[: self.overlays]].inputs, victim.device).float()


def mean_entropy(victim: Victim, queries: Tensor, overlays: Tensor, superposition: Sequence[float]) -> Tensor:
    """Mean entropy in bits of the answers to each query (B, C, H, W) under all overlays (N, C, H, W): float32 (B,)."""
    query_weight, overlay_weight = superposition
    mixed = (query_weight * queries[:, None] + overlay_weight * overlays).clamp(0, 255)
    probabilities = victim(mixed.flatten(0, 1)).float().softmax(1)
    entropies = torch.special.entr(probabilities).sum(1) / torch.log(torch.tensor(2.0))
    return entropies.view(len(queries), len(overlays)).mean(1)


def upper_quantile(scores: Tensor, rate: float) -> float:
    """What a normal distribution with the mean and standard deviation of `scores` exceeds at this rate."""
    return scores.double().mean().item() + NormalDist().inv_cdf(1 - rate) * scores.double().std().item()
