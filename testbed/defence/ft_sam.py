"""FT-SAM: fine-tuning that looks for flat minima, in which the weights that carry a backdoor shrink."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from testbed.api import Batch, Defence, DefenderResources, Invalid, Unsupported, Victim
from testbed.defence.fine_tuning import require_reserve
from testbed.defence.substitution import loss_at


@dataclass(frozen=True)
class FTSAM(Defence):
    """Fine-tunes on the reserve by adaptive sharpness-aware minimisation, with smoothed labels.

    Each step descends by the gradient of L at w + e, where e = `radius` |w|^2 g / || |w| g ||_2 is the first-order solution
    of max L(w + e) over || e / |w| ||_2 <= `radius`, and g the gradient at w: all products elementwise, the norm over all
    weights together. A label of K classes becomes (1 - `label_smoothing`) of itself plus `label_smoothing` / K of each.

    Exact: both gradients are of one batch, augmented alike; momentum and weight decay act at w; running statistics of
    batch normalisation take in the pass at w and not the one at w + e. The radius is constant and every weight is perturbed.
    Schedule and batch size are the trainer's. With trainer.accumulate above 1 each part of a batch has an e of its own. The
    victim's loss must take shares of classes for labels (B, K), as every classifier's cross entropy here does.

    Stage: after training. Access: gradients, the reserve. Source: Zhu et al. 2023 (ICCV, arXiv 2304.11823); the adaptive
    neighbourhood is that of Kwon et al. 2021 (ICML, arXiv 2102.11600), without its constant added to |w|.
    """

    epochs: int
    radius: float
    label_smoothing: float
    optimiser: Callable[..., torch.optim.Optimizer]

    def check(self, resources: DefenderResources) -> None:
        if self.epochs < 1:
            raise Invalid("epochs", self.epochs, "must be at least 1")
        if not 0 < self.radius < float("inf"):
            raise Invalid("radius", self.radius, "must be above 0", "defence=fine_tuning is what 0 would be")
        if not 0 <= self.label_smoothing < 1:
            raise Invalid("label_smoothing", self.label_smoothing, "must lie between 0 and 1, the latter excluded")
        if resources.task.kind == "chat":
            raise Unsupported("needs a classifier")
        require_reserve(resources)

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        smooth = partial(smoothed, classes=len(resources.task.classes), amount=self.label_smoothing)
        loss = partial(sharpness_aware_loss, smooth=smooth, radius=self.radius)
        return resources.fit(victim, resources.reserve, epochs=self.epochs, optimiser=self.optimiser, loss=loss)

    def objective(self, victim: Victim, batch: Batch) -> Tensor:
        """The victim's own training loss, of which the repair looks for flat minima."""
        return victim.loss(batch)


def smoothed(batch: Batch, *, classes: int, amount: float) -> Batch:
    """The batch with shares of classes, float32 (B, K), for labels."""
    whole = functional.one_hot(batch.labels, classes).float()
    return batch._replace(labels=(1 - amount) * whole + amount / classes)


def sharpness_aware_loss(victim: Victim, batch: Batch, *, smooth: Callable[[Batch], Batch], radius: float) -> Tensor:
    """L(w + e) with e held constant, whose gradient with respect to w is therefore that of L at w + e."""
    rows = smooth(batch)
    weights = {name: weight for name, weight in victim.named_parameters() if weight.requires_grad}
    with torch.random.fork_rng():  # so that the second pass draws what the first one drew
        slopes = torch.autograd.grad(victim.loss(rows), list(weights.values()), materialize_grads=True)
    steps = ascent(weights, dict(zip(weights, slopes, strict=True)), radius)
    moved = {name: weight + steps[name] for name, weight in weights.items()}
    statistics = {name: value.clone() for name, value in victim.named_buffers()}
    return loss_at(victim, rows, {**statistics, **moved})


@torch.no_grad()
def ascent(weights: Mapping[str, Tensor], slopes: Mapping[str, Tensor], radius: float) -> dict[str, Tensor]:
    """e = radius |w|^2 g / || |w| g ||_2; zero where every slope is."""
    norm = torch.stack([(weights[name] * slope).norm() for name, slope in slopes.items()]).norm()
    scale = radius / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    return {name: scale * weights[name].square() * slope for name, slope in slopes.items()}
