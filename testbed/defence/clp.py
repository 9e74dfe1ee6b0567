"""Channel Lipschitzness pruning: channels that stretch their input far more than the others of their layer are pruned."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import Defence, DefenderResources, ImageTask, Invalid, Task, Unsupported, Victim
from testbed.numerics.normalised_convolution import Pair, lipschitz_bounds, pairs


@dataclass(frozen=True)
class CLP(Defence):
    """Prunes, in each layer, the channels c with UCLC_c > mean + `strictness` s of that layer; no data are looked at.

    UCLC_c = sigma_max(W_c) |gamma_c| / sigma_c for a convolution W and the batch normalisation that reads its output; s is the
    standard deviation over the layer's channels (of n - 1). A pruned channel's gamma and beta are 0.

    A layer is a normalisation whose input is one convolution's output, found by running the model once, for which one was
    defined before it says nothing: in a pre-activation network half of them read sums. To those the definition does not
    apply, and they are left alone: 9 of 17 are pairs in a PreAct ResNet-18, all in SmallCNN, ResNet and VGG. Among n
    channels none can lie more than (n - 1) / sqrt(n) s above the mean: with the published 3, a layer of fewer than 11 channels
    is never pruned.

    Stage: after training. Access: weights. Source: Zheng et al. 2022 (ECCV, arXiv 2208.03111).
    """

    strictness: float

    def check(self, resources: DefenderResources) -> None:
        if not 0 < self.strictness < float("inf"):
            raise Invalid("strictness", self.strictness, "must be above 0", "the paper's is 3")
        if not layers(resources.fresh(), resources.task):
            raise Unsupported("needs a model in which batch normalisation reads a convolution's output")

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        repaired = copy.deepcopy(victim)
        for pair in layers(repaired, resources.task):
            bad = outstanding(lipschitz_bounds(pair), self.strictness)
            with torch.no_grad():
                pair.norm.weight[bad] = 0
                pair.norm.bias[bad] = 0
        return repaired


def layers(victim: Victim, task: Task) -> list[Pair]:
    """The victim's convolutions with the normalisations that read them; raises `Unsupported` for anything but images."""
    if not isinstance(task, ImageTask):
        raise Unsupported(f"needs a convolutional model of images, not {task.kind}")
    return pairs(victim, torch.zeros(1, *task.shape, dtype=torch.uint8, device=victim.device))


def outstanding(bounds: Tensor, strictness: float) -> Tensor:
    """bool (C,): which values exceed mean + strictness times the standard deviation."""
    return bounds > bounds.mean() + strictness * bounds.std()
