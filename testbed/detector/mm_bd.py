"""MM-BD: some image exists for which a backdoored model is outstandingly sure of the backdoor's target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from testbed.api import DefenderResources, ImageTask, Inspection, Invalid, ModelDetector, Unsupported, Victim
from testbed.detector.requirement import require_above, require_at_least, require_between, require_images
from testbed.features import progress
from testbed.identity import generator
from testbed.numerics.trigger_inversion import frozen
from testbed.words import nearest

NUMBERS_AT_ONCE = 2**20
"""Input values in one step, whose activations are kept for the gradient."""

FEWEST_CLASSES = 3
NULLS = ("exponential", "gamma")
SMALLEST = 1e-6
"""A margin of a class that is nowhere the answer is at most 0; both nulls live above 0."""
FAR, LEAST, ALIKE = -30.0, -300.0, 1e-6


@dataclass(frozen=True)
class MMBD(ModelDetector):
    """Maximises the margin of every class over images, without any data; the largest is compared with all the others.

    `r_c = max_x f_c(x) - max_{k != c} f_k(x)` over x in [0, 255]^(C, H, W), f the logits, by projected gradient ascent from
    `restarts` uniform images. Scores: `-log10 p_c`, `p_c = 1 - F_c(r_c)^K`, F_c the null distribution fitted to the statistics
    of the K - 1 other classes: p of the largest is the paper's order-statistic p-value, and it is flagged where p is below
    `significance`. `absolute`: `log r_c`. No class of the reserve or of the training rows is looked at.

    The paper's: the statistic, the fit to all but the largest, the power K, .05. The nulls: an 'exponential' with the mean of
    the others, by which a margin must be 5.3 times the mean of nine others; or a 'gamma' with location 0, which the authors'
    published code fits with a free one (whose likelihood has no maximum). Ours: the length of a step, `step_size` grey levels
    (root mean square) at first and falling linearly to 0, whatever the scale of the logits; and the best image of all steps.

    The p-value is no exact one: the null is fitted to the smaller K - 1 of K values, so that more than `significance` of the
    models with exponential margins are flagged: 15.7 % at ten classes, 8.2 % at 43 (by Fisher's test of the largest share, as
    `tests/detector/test_mm_bd.py` has it); with the gamma 27 % and 10 % in simulations. Margins that differ less than
    exponential ones are flagged more rarely.

    Source: Wang, Xiang, Miller and Kesidis 2024 (IEEE S&P, arXiv 2205.06900).
    """

    restarts: int = 10
    steps: int = 300
    step_size: float = 25.0
    null_distribution: Literal["exponential", "gamma"] = "exponential"
    significance: float = 0.05

    def check(self, resources: DefenderResources) -> None:
        task = require_images(resources.task)
        if len(task.classes) < FEWEST_CLASSES:
            raise Unsupported(f"needs at least {FEWEST_CLASSES} classes: the largest margin is compared with the others")
        require_at_least("restarts", self.restarts, 1)
        require_at_least("steps", self.steps, 1)
        require_above("step_size", self.step_size, 0)
        require_between("significance", self.significance, 0, 1)
        if self.null_distribution not in NULLS:
            raise Invalid(
                "null_distribution", self.null_distribution, "there is no such choice", nearest(self.null_distribution, NULLS)
            )

    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        """Scores float64 (K,); the victim is read in evaluation mode and left as it was."""
        margins = self.margins(victim, require_images(resources.task), generator(resources.seed, "maximum margin"))
        scores = torch.tensor(
            [-log10_p(float(own), _but(margins, place), self.null_distribution) for place, own in enumerate(margins)]
        )
        largest = int(margins.argmax())
        outstanding = float(scores[largest]) > -math.log10(self.significance)
        absolute = margins.clamp(min=SMALLEST).log()
        return Inspection(scores.double(), (largest,) if outstanding else (), absolute=absolute)

    def margins(self, victim: Victim, task: ImageTask, draw: torch.Generator) -> Tensor:
        """r_c of every class, float64 (K,) on the CPU."""
        classes = len(task.classes)
        start = 255 * torch.rand(self.restarts, *task.shape, generator=draw)  # the same for all classes: a fair comparison
        at_once = max(1, NUMBERS_AT_ONCE // start.numel())
        groups = torch.arange(classes).split(at_once)
        with frozen(victim):
            found = [self._ascended(victim, start, group) for group in progress(groups, "MM-BD", len(groups))]
        return torch.cat(found).double()

    def _ascended(self, victim: Victim, start: Tensor, classes: Tensor) -> Tensor:
        wanted = classes.repeat_interleave(len(start)).to(victim.device)
        images = start.repeat(len(classes), *(1,) * (start.dim() - 1)).to(victim.device)
        best = torch.full((len(images),), -torch.inf, device=victim.device)
        for step in range(self.steps + 1):
            images.requires_grad_()
            found = margin(victim(images), wanted)
            best = torch.maximum(best, found.detach())
            if step == self.steps:
                break
            (slope,) = torch.autograd.grad(found.sum(), images)
            length = self.step_size * (1 - step / self.steps)
            size = slope.flatten(1).square().mean(1).sqrt().clamp(min=torch.finfo(slope.dtype).tiny)
            images = (images.detach() + length * slope / size.view(-1, *(1,) * (slope.dim() - 1))).clamp(0, 255)
        return best.view(len(classes), -1).amax(1).cpu()


def margin(logits: Tensor, classes: Tensor) -> Tensor:
    """f_c - max_{k != c} f_k for logits (B, K) and classes int64 (B,): float (B,)."""
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return (own[:, 0] - others.amax(1)).float()


def log10_p(largest: float, others: Tensor, null: str = "exponential") -> float:
    """log10 of `1 - F(largest)^K`, the chance that the largest of K values is so large; F fitted to the K - 1 `others`.

    Values at or below 0 count as almost 0. Never below `LEAST`.
    """
    below, above = _tails(max(largest, SMALLEST), others.double().clamp(min=SMALLEST).numpy(), null)
    count = len(others) + 1
    if above < FAR:  # there 1 - F^K is K (1 - F), and F rounds to 1
        return max((math.log(count) + above) / math.log(10), LEAST)
    return math.log10(-math.expm1(count * below))


def _tails(value: float, others: np.ndarray, null: str) -> tuple[float, float]:
    """log F and log (1 - F) of the likeliest distribution; equal values have no gamma, and are taken for exponential ones."""
    if null == "exponential" or others.std() <= ALIKE * others.mean():
        ratio = value / float(others.mean())
        return math.log(-math.expm1(-ratio)), -ratio
    shape, _, scale = stats.gamma.fit(others, floc=0)
    law = stats.gamma(shape, scale=scale)
    return float(law.logcdf(value)), float(law.logsf(value))


def _but(values: Tensor, place: int) -> Tensor:
    return torch.cat([values[:place], values[place + 1 :]])
