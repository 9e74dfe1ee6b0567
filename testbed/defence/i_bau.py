"""I-BAU: unlearn the perturbation that hurts most, and take into account that it moves with the model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from testbed.api import Batch, Defence, DefenderResources, Examples, ImageTask, Invalid, Unsupported, Victim
from testbed.defence.fine_tuning import require_reserve
from testbed.features import evaluating, on_device, progress
from testbed.identity import generator
from testbed.numerics.hypergradient import hypergradient

WHITE = 255.0
USUAL_SIZE = 3 * 32 * 32
"""Numbers in an image of CIFAR-10, for which the radius was chosen."""


@dataclass(frozen=True)
class IBAU(Defence):
    """Solves min_theta max_d (1/n) sum_i CE(f_theta(x_i + d), y_i) on the reserve by implicit hypergradients.

    A round: (1) inner problem: one perturbation d (C, H, W) for all images, from 0, by an epoch of SGD at `inner_learning_rate`
    on g = -CE(f(x + d), y) + `penalty` ||d||^2, then drawn back into a ball of L2 `radius`. (2) outer problem: for each batch a
    step of `optimiser` on h = CE(f(x + d), y), where `perturbed_share` of the batch (at least one image) carries d, along its
    hypergradient: dh/dtheta + (dPhi/dtheta)^T v with v from `fixed_point_iterations`, Phi = d - `step_size` dg/dd
    (see `numerics.hypergradient`).

    Pixels: d is in units of 0..1, so that learning rates, penalty and radius are those of images in 0..1; the victim is given
    x + 255 d, not clipped. That the ball grows with the image is ours: a root mean square of .18, as 10 is for 3 x 32 x 32. The
    model stays in evaluation mode, so that its running statistics are not those of perturbed images (ours too).
    `perturbed_share` 1 is the paper's formula; BackdoorBench perturbs 1 % of a batch. From memory of the authors' code:
    `step_size` 0.1 and `radius` 10. Labels are the reserve's, as in the paper.

    Raises: `Unsupported` without images, `Invalid` for a number out of range.

    Source: Zeng et al. 2022 (ICLR, arXiv 2110.03735).
    """

    rounds: int
    batch_size: int
    inner_learning_rate: float
    penalty: float
    radius: float
    perturbed_share: float
    fixed_point_iterations: int
    step_size: float
    optimiser: Callable[..., torch.optim.Optimizer]

    def check(self, resources: DefenderResources) -> None:
        if not isinstance(resources.task, ImageTask):
            raise Unsupported(f"needs images, not {resources.task.kind}: words cannot be perturbed by a gradient")
        require_reserve(resources)
        for name in ("rounds", "batch_size", "fixed_point_iterations"):
            if getattr(self, name) < 1:
                raise Invalid(name, getattr(self, name), "must be at least 1")
        for name in ("inner_learning_rate", "radius", "step_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise Invalid(name, getattr(self, name), "must be a finite number above 0")
        if not 0 <= self.penalty < math.inf:
            raise Invalid("penalty", self.penalty, "must be a finite number of at least 0")
        if not 0 < self.perturbed_share <= 1:
            raise Invalid("perturbed_share", self.perturbed_share, "must lie above 0 and be at most 1")
        self._try(resources.fresh(), resources.reserve)

    def _try(self, victim: Victim, reserve: Examples) -> None:
        """One step on an untrained model; raises `Unsupported` where a part of it has no second derivative."""
        batch = reserve[torch.arange(min(2, len(reserve)))]
        batch = Batch(on_device(batch.inputs, victim.device), batch.labels.to(victim.device), batch.rows)
        worst = torch.zeros(batch.inputs.shape[1:], device=victim.device)
        try:
            with evaluating(victim), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                self._unlearn(victim, batch, worst, torch.ones(len(batch.labels), dtype=torch.bool))
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            raise Unsupported(f"needs a model that can be differentiated twice: {error}") from error

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        cleaned = copy.deepcopy(victim)
        parts = shuffled(resources.reserve, self.batch_size, resources.seed, cleaned.device)
        parameters = [parameter for parameter in cleaned.parameters() if parameter.requires_grad]
        optimiser = self.optimiser(parameters)
        # Fused attention has no second derivative, which transformers need here.
        with evaluating(cleaned), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for number in progress(range(self.rounds), "I-BAU", self.rounds):
                worst = self._worst(cleaned, parts)
                draw = generator(resources.seed, f"perturbed images of round {number}")
                for batch in parts:
                    self._unlearn(cleaned, batch, worst, self._carriers(len(batch.labels), draw))
                    optimiser.step()
        cleaned.zero_grad(set_to_none=True)
        return cleaned

    def objective(self, victim: Victim, batch: Batch) -> Tensor:
        """The victim's own training loss, which the outer problem minimises where the perturbation is 0."""
        return victim.loss(batch)

    def _worst(self, victim: Victim, parts: list[Batch]) -> Tensor:
        """float32 (C, H, W) in units of 0..1: what misleads the model most on all images at once."""
        perturbation = torch.zeros(parts[0].inputs.shape[1:], device=victim.device, requires_grad=True)
        descent = torch.optim.SGD([perturbation], lr=self.inner_learning_rate)
        for batch in parts:
            perturbation.grad = torch.autograd.grad(self._inner(victim, batch, perturbation), perturbation)[0]
            descent.step()
        found = perturbation.detach()
        radius = self.radius * math.sqrt(found.numel() / USUAL_SIZE)
        return found * min(1.0, radius / max(float(found.norm()), 1e-12))

    def _inner(self, victim: Victim, batch: Batch, perturbation: Tensor) -> Tensor:
        """g, which the perturbation minimises."""
        return self.penalty * perturbation.square().sum() - misled(victim, batch, perturbation)

    def _unlearn(self, victim: Victim, batch: Batch, worst: Tensor, carriers: Tensor) -> None:
        """Leaves the hypergradient in the parameters' `grad`."""
        parameters = [parameter for parameter in victim.parameters() if parameter.requires_grad]
        carry = carriers.to(worst.device, worst.dtype).view(-1, 1, 1, 1)

        def step(perturbation: Tensor) -> Tensor:
            inner = self._inner(victim, batch, perturbation)
            return perturbation - self.step_size * torch.autograd.grad(inner, perturbation, create_graph=True)[0]

        found = hypergradient(
            lambda perturbation: misled(victim, batch, carry * perturbation),
            step,
            worst,
            parameters,
            iterations=self.fixed_point_iterations,
        )
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient

    def _carriers(self, count: int, draw: torch.Generator) -> Tensor:
        """bool (count,): which images of a batch carry the perturbation."""
        carriers = torch.zeros(count, dtype=torch.bool)
        carriers[torch.randperm(count, generator=draw)[: max(1, int(self.perturbed_share * count))]] = True
        return carriers


def misled(victim: Victim, batch: Batch, perturbation: Tensor) -> Tensor:
    """Cross entropy of images with a perturbation in units of 0..1, as (C, H, W) or one for each image."""
    return cross_entropy(victim(batch.inputs.float() + WHITE * perturbation), batch.labels)


def shuffled(examples: Examples, batch_size: int, seed: int, device: torch.device) -> list[Batch]:
    """All rows in a random order, in batches that lie on the device."""
    order = torch.randperm(len(examples), generator=generator(seed, "order of the reserve"))
    parts = [examples[part] for part in order.split(batch_size)]
    return [Batch(on_device(part.inputs, device), part.labels.to(device), part.rows) for part in parts]
