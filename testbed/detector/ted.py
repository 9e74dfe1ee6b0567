"""TED: from layer to layer, an image with a trigger is not among the neighbours that its class has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Victim
from testbed.detector.answering import logits_of, require_rows_of_each_class
from testbed.detector.requirement import require_between, require_images
from testbed.features import all_labels, batches, evaluating, on_device, progress, read

BATCH = 128
FOLDS = 5


@dataclass(frozen=True)
class Ted(Detector):
    """Score `sum_j z_j^2 / v_j`: how unusual the ranks (K_1, ..., K_L) of an image are, by their principal components z.

    K_l is the number of images of the clean reserve that are nearer to the image, by the activations of layer l, than the
    nearest one of the class that the model answers: 0 where that one is the nearest of all. The ranks of the reserve's own
    images, each without itself, give the mean, the components and their variances v_j; of them only those that the model
    answers rightly are used, if there are enough. Flagged are scores above the `1 - contamination` quantile of the reserve.

    The paper names a PCA outlier detector. Ours: the squared form over all components (Shyu et al. 2003), and no rank varies
    less over the reserve than if one of its images were off by one place, as in late layers all ranks may be 0.

    Source: Mo et al. 2024 (IEEE S&P, arXiv 2312.02673).
    """

    contamination: float = 0.1

    judges: ClassVar[frozenset[str]] = frozenset({"queries", "rows"})

    def check(self, resources: DefenderResources) -> None:
        require_images(resources.task)
        require_between("contamination", self.contamination, 0, 1)
        require_rows_of_each_class(resources, 2)

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,), 0 or more; about the number of layers for clean images."""
        reserve = resources.reserve
        return outlyingness(self._usual(victim, resources), trajectories(victim, examples, reserve))

    def reserve_scores(self, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (m,): no image is its own neighbour, and its fold of five is left out of what is usual."""
        ranks, usual = self._ranks(victim, resources)
        fold = usual.cumsum(0) % FOLDS
        scores = torch.zeros(len(ranks), dtype=torch.float64)
        for number in range(FOLDS):
            scores[fold == number] = outlyingness(ranks[usual & (fold != number)], ranks[fold == number])
        return scores

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """Scores above what a share `contamination` of the reserve's right answers exceed."""
        usual = self._usual(victim, resources)
        return scores > outlyingness(usual, usual).quantile(1 - self.contamination)

    def _usual(self, victim: Victim, resources: DefenderResources) -> Tensor:
        ranks, usual = self._ranks(victim, resources)
        return ranks[usual]

    def _ranks(self, victim: Victim, resources: DefenderResources) -> tuple[Tensor, Tensor]:
        """Ranks of the reserve's images, each without itself, and which of them are answered rightly, bool (m,).

        All count as such where those are too few for their components.
        """
        reserve = resources.reserve
        ranks = trajectories(victim, reserve, reserve, themselves=True)
        right = logits_of(victim, reserve).argmax(1) == all_labels(reserve)
        return ranks, right if int(right.sum()) > ranks.shape[1] else torch.ones_like(right)


@torch.no_grad()
def trajectories(victim: Victim, examples: Examples, reserve: Examples, *, themselves: bool = False) -> Tensor:
    """float64 (n, L): ranks by layer. `themselves`: the rows are the reserve's own, and none is a neighbour of itself."""
    answers, labels = logits_of(victim, examples).argmax(1), all_labels(reserve)
    others = labels != answers[:, None]
    ranks = []
    for layer in victim.layers:
        known = read(victim, reserve, layer).features.to(victim.device).double()
        distances, seen = [], 0
        with evaluating(victim):
            for batch in progress(batches(examples, BATCH), f"TED, {layer}", -(-len(examples) // BATCH)):
                points = victim.features(on_device(batch.inputs, victim.device), layer).flatten(1).double()
                apart = torch.cdist(points, known, compute_mode="use_mm_for_euclid_dist").cpu()
                if themselves:
                    apart[torch.arange(len(apart)), seen + torch.arange(len(apart))] = torch.inf
                distances.append(apart)
                seen += len(apart)
        apart = torch.cat(distances)
        nearest = apart.masked_fill(others, torch.inf).amin(1, keepdim=True)
        ranks.append((apart < nearest).sum(1).double())
    return torch.stack(ranks, 1)


def outlyingness(usual: Tensor, ranks: Tensor) -> Tensor:
    """float64 (n,): `sum_j z_j^2 / v_j` of `ranks` (n, L) over the principal components of standardised `usual` (m, L)."""
    centre, least = usual.mean(0), len(usual) ** -0.5
    spread = usual.std(0, correction=0).clamp(min=least)
    known, asked = ((part - centre) / spread for part in (usual, ranks))
    variances, components = torch.linalg.eigh(known.T @ known / max(len(known) - 1, 1))
    return (asked @ components).square() @ variances.clamp(min=least**2).reciprocal()
