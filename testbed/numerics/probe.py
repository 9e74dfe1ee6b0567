"""One direction through activations, along which rows of one kind lie above the others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

ITERATIONS = 500


class Axis(NamedTuple):
    """`position(h) = h . weight + offset`, weight float64 (d,)."""

    weight: Tensor
    offset: Tensor

    def position(self, features: Tensor) -> Tensor:
        """float64 (n,), for features (n, d)."""
        return features.double() @ self.weight + self.offset


def mean_difference(features: Tensor, inside: Tensor) -> Axis:
    """0 at the mean of the rows outside, 1 at the mean of those inside: (h - m_0) . (m_1 - m_0) / |m_1 - m_0|^2.

    `features` (n, d), `inside` bool (n,) with rows of both kinds. Where both means are one, every position is 0.
    """
    values = features.double()
    low, high = values[~inside].mean(0), values[inside].mean(0)
    square = (high - low).square().sum()
    weight = torch.zeros_like(low) if square == 0 else (high - low) / square
    return Axis(weight, -low @ weight)


def logistic(features: Tensor, inside: Tensor, *, penalty: float) -> Axis:
    """Log-odds of lying inside: minimises sum log(1 + exp(-+(w . z + b))) + penalty / 2 |w|^2 over standardised features z.

    A feature that does not vary has no weight. L-BFGS to convergence: the loss is convex, so that there is one solution.
    """
    values = features.double()
    centre, spread = values.mean(0), values.std(0, correction=0)
    usable = spread > 1e-8 * values.abs().amax(0)
    scaled = torch.where(usable, (values - centre) / torch.where(usable, spread, 1.0), 0.0)
    sign = torch.where(inside, 1.0, -1.0).double()
    weight, bias = torch.zeros(values.shape[1]).double().requires_grad_(), torch.zeros(()).double().requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-9, tolerance_change=1e-13, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = torch.nn.functional.softplus(-sign * (scaled @ weight + bias)).sum() + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    found = torch.where(usable, weight.detach() / torch.where(usable, spread, 1.0), 0.0)
    return Axis(found, bias.detach() - centre @ found)


def reading_vector(features: Tensor, inside: Tensor, *, draws: Generator) -> Axis:
    """First principal component of the differences of random pairs (inside, outside), pointing inside; 0 at the mean of all.

    Half of the differences, at random, are turned round, so that centring does not take away what they have in common. The
    sign is the one by which more pairs have their inside row above the other.
    """
    values = features.double()
    high, low = (values[kind.nonzero().flatten()] for kind in (inside, ~inside))
    count = min(len(high), len(low))
    high, low = (rows[torch.randperm(len(rows), generator=draws)[:count]] for rows in (high, low))
    differences = high - low
    turned = torch.where(torch.randperm(count, generator=draws) < count // 2, -1.0, 1.0).double()[:, None]
    mixed = differences * turned
    weight = torch.linalg.svd(mixed - mixed.mean(0), full_matrices=False).Vh[0]
    votes = (differences @ weight).sign().sum()
    side = votes if votes != 0 else (differences.mean(0) @ weight).sign()
    weight = torch.where(side < 0, -weight, weight)
    return Axis(weight, -values.mean(0) @ weight)
