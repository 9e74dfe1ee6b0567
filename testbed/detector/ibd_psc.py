"""IBD-PSC: an image with a trigger keeps its confidence when the last layers' scales and shifts are multiplied."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from testbed.api import DefenderResources, Detector, Examples, Unsupported, Victim
from testbed.detector.answering import logits_of
from testbed.detector.requirement import require_above, require_at_least, require_between, require_images, require_reserve
from testbed.features import all_labels, evaluating, on_device


@dataclass(frozen=True)
class IbdPsc(Detector):
    """Score `(1/n) sum_i softmax f_i(x)[argmax f(x)]`: the mean confidence of n models amplified in more and more layers.

    In f_i the scale and the shift of the last k + i - 1 batch normalisations, in the order in which they run, are multiplied
    by `amplification`. k is the smallest number for which the error of f_1 on the labels of the clean reserve is above
    `error_rate`; all of them where none is. n is `models`, or as many as there are from k on: a small network has few layers.
    Flagged are scores above `threshold`. The model that is examined stays as it is.

    Source: Hou, Feng, Hua, Luo, Zhang and Li 2024 (ICML, arXiv 2405.09786), who also clean training rows with it.
    """

    amplification: float = 1.5
    error_rate: float = 0.6
    models: int = 5
    threshold: float = 0.9

    judges: ClassVar[frozenset[str]] = frozenset({"queries", "rows"})

    def check(self, resources: DefenderResources) -> None:
        require_images(resources.task)
        require_above("amplification", self.amplification, 0)
        require_between("error_rate", self.error_rate, 0, 1)
        require_at_least("models", self.models, 1)
        require_between("threshold", self.threshold, 0, 1)
        require_reserve(resources, 1)
        if not any(_scales(module) for module in resources.fresh().modules()):
            raise Unsupported("needs a model with batch normalisation")

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,), in 0..1."""
        answers = logits_of(victim, examples).argmax(1)
        confidences = [
            logits_of(model, examples).double().softmax(1).gather(1, answers[:, None])[:, 0]
            for model in self._amplified(victim, resources)
        ]
        return torch.stack(confidences).mean(0)

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """Scores above `threshold`."""
        return scores > self.threshold

    def _amplified(self, victim: Victim, resources: DefenderResources) -> Iterator[Victim]:
        """A copy that is amplified from layer to layer, from the first one that errs often enough on."""
        model, reserve = copy.deepcopy(victim), resources.reserve
        layers = normalisations(model, on_device(reserve[torch.arange(1)].inputs, model.device))[::-1]
        truth, made = all_labels(reserve), 0
        for place, layer in enumerate(layers, start=1):
            with torch.no_grad():
                layer.weight.mul_(self.amplification)
                layer.bias.mul_(self.amplification)
            errs = made or float((logits_of(model, reserve).argmax(1) != truth).double().mean()) > self.error_rate
            if (errs or place == len(layers)) and made < self.models:
                made += 1
                yield model


@torch.no_grad()
def normalisations(victim: Victim, inputs: Tensor) -> list[_BatchNorm]:
    """The batch normalisations that have a scale and a shift, in the order in which they run."""
    ran: list[_BatchNorm] = []
    handles = [
        module.register_forward_hook(lambda module, *_: ran.append(module)) for module in victim.modules() if _scales(module)
    ]
    try:
        with evaluating(victim):
            victim(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(ran))


def _scales(module: nn.Module) -> TypeGuard[_BatchNorm]:
    return isinstance(module, _BatchNorm) and module.affine
