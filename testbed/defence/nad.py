"""Neural Attention Distillation: a fine-tuned copy of the victim teaches it where to look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from testbed.api import Batch, Defence, DefenderResources, Examples, Invalid, Unsupported, Victim
from testbed.defence.fine_tuning import require_reserve
from testbed.features import evaluating, on_device
from testbed.numerics.attention import attention_distance


@dataclass(frozen=True)
class NeuralAttentionDistillation(Defence):
    """Fine-tunes the victim on the reserve while its attention maps are drawn to those of a teacher.

    L = CE(x, y) + sum_l beta_l || A_l / ||A_l|| - A_l^T / ||A_l^T|| ||_2, A = mean over channels of |F_l(x)|^`power`, averaged
    over images. The teacher (T) is the victim after `teacher_epochs` of fine-tuning on the reserve.

    Layers: of the victim's stages that give maps, the last one at each resolution; of these the last len(`betas`) take the
    betas in order, and where there are fewer, the last betas count. In a WideResNet, whose three groups differ in resolution,
    these are the paper's three layers; the rule is ours, for other networks.

    The distance is that of the paper's formula; the authors' code (from memory) has the mean square over places instead, with
    which the same betas draw far less (see conf/defence/nad.yaml). Ours: attention is compared on the images as they lie in the
    reserve, cross entropy on augmented ones, for a victim does not show its features on those; the paper augments both alike.
    Epochs and learning rate are those of fine-tuning (Wu et al. 2022, BackdoorBench), so that the two can be compared.

    Raises: `Unsupported` for a model without convolutions.

    Source: Li et al. 2021 (ICLR, arXiv 2101.05930).
    """

    betas: tuple[float, ...]
    power: float
    teacher_epochs: int
    epochs: int
    optimiser: Callable[..., torch.optim.Optimizer]

    def check(self, resources: DefenderResources) -> None:
        require_reserve(resources)
        for name in ("teacher_epochs", "epochs"):
            if getattr(self, name) < 1:
                raise Invalid(name, getattr(self, name), "must be at least 1")
        if not self.betas or not all(0 <= beta < float("inf") for beta in self.betas):
            raise Invalid("betas", list(self.betas), "must be finite numbers of at least 0", "0 is plain fine-tuning")
        if not 0 < self.power < float("inf"):
            raise Invalid("power", self.power, "must be above 0", "the paper's is 2")
        untrained = resources.fresh()
        if "penultimate" not in untrained.groups:
            raise Unsupported("attention distillation needs a convolutional model whose head reads its last channels")
        attended(untrained, resources.reserve)

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        reserve = resources.reserve
        teacher = resources.fit(victim, reserve, epochs=self.teacher_epochs, optimiser=self.optimiser)
        loss = Distillation(teacher.eval().requires_grad_(False), self._weights(attended(victim, reserve)), self.power)
        return resources.fit(victim, reserve, epochs=self.epochs, optimiser=self.optimiser, loss=loss)

    def objective(self, victim: Victim, batch: Batch) -> Tensor:
        """The victim's own training loss: the teacher, whom its attention follows, is not there yet."""
        return victim.loss(batch)

    def _weights(self, layers: Sequence[str]) -> dict[str, float]:
        """The weight of each layer that has one."""
        count = min(len(layers), len(self.betas))
        return {layer: beta for layer, beta in zip(layers[-count:], self.betas[-count:], strict=True) if beta}


@dataclass(frozen=True)
class Distillation:
    """The loss of a student; `weights` name the layers."""

    teacher: Victim
    weights: dict[str, float]
    power: float

    def __call__(self, student: Victim, batch: Batch) -> Tensor:
        total = student.loss(batch)
        for layer, beta in self.weights.items():
            with torch.no_grad():
                wanted = self.teacher.features(batch.inputs, layer)
            with at_rest(student):
                seen = student.features(batch.inputs, layer)
            total = total + beta * attention_distance(seen, wanted, self.power)
        return total


@contextmanager
def at_rest(victim: Victim) -> Iterator[None]:
    """Inside, running statistics stay: a batch that is read once a layer counts once, in its loss."""
    kept = [(module, module.momentum) for module in victim.modules() if isinstance(module, _BatchNorm)]
    try:
        for module, _ in kept:
            module.momentum = 0.0
        yield
    finally:
        for module, momentum in kept:
            module.momentum = momentum


@torch.no_grad()
def attended(victim: Victim, examples: Examples) -> tuple[str, ...]:
    """The last stage at each resolution, from input to output; raises `Unsupported` where no stage gives maps."""
    image = on_device(examples[torch.arange(1)].inputs, victim.device)
    last: dict[tuple[int, ...], str] = {}
    with evaluating(victim):
        for layer in victim.layers[:-1]:
            maps = victim.features(image, layer)
            if maps.dim() == 4 and maps[0, 0].numel() > 1:
                side = tuple(maps.shape[2:])
                last.pop(side, None)  # so that the order is that of the stages kept
                last[side] = layer
    if not last:
        raise Unsupported("attention distillation needs layers that give maps of more than one pixel")
    return tuple(last.values())
