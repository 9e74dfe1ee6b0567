"""Bounded changes of images that make training on them look like training on something else: gradient matching."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

Gradient = tuple[Tensor, ...]
DROPS = (3 / 8, 5 / 8, 7 / 8)
"""Parts of the search after which steps are a tenth of what they were."""


@dataclass(frozen=True)
class Matching:
    """How far a pixel may move (`max_change`, grey levels of 255), how many steps there are and how large the first of them is
    (`step_size`, a share of `max_change`), and how many images are matched together."""

    max_change: float
    iterations: int
    step_size: float
    batch_size: int


def gradient_of(model: nn.Module, inputs: Tensor, labels: Tensor, *, create_graph: bool = False) -> Gradient:
    """The gradient of the summed cross entropy in every parameter that is trained; `create_graph` to differentiate it again."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = cross_entropy(model(inputs).float(), labels, reduction="sum")
    return torch.autograd.grad(loss, trained, create_graph=create_graph)


def target_gradient(model: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int) -> Gradient:
    """The same for as many images as there are, read so many at a time."""
    with plain_attention():
        parts = [
            gradient_of(model, some, wanted)
            for some, wanted in zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
        ]
    return tuple(torch.stack(column).sum(0) for column in zip(*parts, strict=True))


def gradient_norms(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """float32 (n,): the Euclidean norm of the gradient of each image's own cross entropy."""
    with plain_attention():
        norms = [_norm(gradient_of(model, *one)) for one in zip(inputs.split(1), labels.split(1), strict=True)]
    return torch.stack(norms).float()


def mismatch(one: Gradient, other: Gradient) -> Tensor:
    """1 - cos(one, other), over all parameters as one vector: 0 where they point the same way, 2 where against each other."""
    product = sum((mine * theirs).sum() for mine, theirs in zip(one, other, strict=True))
    return 1 - product / (_norm(one) * _norm(other) + 1e-12)


class Search:
    """Changes of n images within +-`max_change` by signed Adam, so that their summed gradient matches a wanted one.

    Each step takes the sign of the gradient of `mismatch(sum_i grad CE(f(x_i + d_i), y_i), wanted)` in d and hands it to Adam;
    afterwards d is cut to the bound and x + d to 0..255. The step is `step_size` times the bound at first, and a tenth of what
    it was after 3/8, 5/8 and 7/8 of the iterations. d begins uniform within the bound. It goes on where it stood when `run` is
    called again, with another model perhaps. Images are matched in groups of `batch_size`, which `augmented` may move.

    Source: Geiping et al. 2021 (Witches' Brew, ICLR, arXiv 2009.02276).
    """

    def __init__(self, inputs: Tensor, labels: Tensor, matching: Matching, *, generator: torch.Generator) -> None:
        self.inputs, self.labels, self.matching = inputs.float(), labels, matching
        start = (2 * torch.rand(inputs.shape, generator=generator) - 1) * matching.max_change
        self.change = self._allowed(start.to(inputs.device)).requires_grad_()
        self.adam = torch.optim.Adam([self.change], lr=matching.step_size * matching.max_change)
        self.done = 0

    @property
    def changed(self) -> Tensor:
        """x + d: float32 (n, C, H, W) in 0..255."""
        return self.inputs + self.change.detach()

    def run(
        self,
        model: nn.Module,
        wanted: Gradient,
        steps: Iterable[int],
        *,
        augmented: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> float:
        """A step for each of `steps` against one model, whose modes are the caller's: the mean mismatch then, unaugmented."""
        groups = torch.arange(len(self.inputs), device=self.inputs.device).split(self.matching.batch_size)
        with plain_attention():
            for _ in steps:
                slope = torch.zeros_like(self.change)
                for rows in groups:
                    shown = augmented(self.inputs[rows] + self.change[rows])
                    gap = mismatch(gradient_of(model, shown, self.labels[rows], create_graph=True), wanted)
                    slope += torch.autograd.grad(gap, self.change)[0]
                self._step(slope.sign())
            ends = [mismatch(gradient_of(model, self.changed[rows], self.labels[rows]), wanted).detach() for rows in groups]
        return float(torch.stack(ends).mean())

    def _step(self, signs: Tensor) -> None:
        part = self.done / self.matching.iterations
        for group in self.adam.param_groups:
            group["lr"] = self.matching.step_size * self.matching.max_change * 0.1 ** sum(part >= drop for drop in DROPS)
        self.change.grad = signs
        self.adam.step()
        self.done += 1
        with torch.no_grad():
            self.change.copy_(self._allowed(self.change))

    def _allowed(self, change: Tensor) -> Tensor:
        bounded = change.clamp(-self.matching.max_change, self.matching.max_change)
        return (self.inputs + bounded).clamp(0, 255) - self.inputs


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by plain products: the fused kernels have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _norm(gradient: Sequence[Tensor]) -> Tensor:
    return torch.sqrt(sum((part**2).sum() for part in gradient))  # type: ignore[arg-type]
