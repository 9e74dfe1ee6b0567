"""A mean and a covariance that a few wild points do not move."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

NEGLIGIBLE = 1e-10
"""Directions with less than this share of the largest variance carry rounding alone."""

POWER_ITERATIONS = 30
TAIL = 12.0
"""Diakonikolas et al.: a quadratic of standard normals exceeds T in absolute value with probability at most 12 exp(-T)."""


class Gaussian(NamedTuple):
    """`mean` (d,) and `covariance` (d, d), float64, estimated from the points that `kept`, bool (n,), names."""

    mean: Tensor
    covariance: Tensor
    kept: Tensor


def gaussian_of(points: Tensor, kept: Tensor) -> Gaussian:
    """Mean and covariance (divided by the number) of the chosen ones among `points` (n, d)."""
    chosen = points[kept].double()
    centred = chosen - chosen.mean(0)
    return Gaussian(chosen.mean(0), centred.T @ centred / len(chosen), kept)


def whitened(points: Tensor, gaussian: Gaussian) -> Tensor:
    """float64 (n, d): covariance^(-1/2) (x - mean), the symmetric root; directions without variance are left out (0)."""
    values, vectors = torch.linalg.eigh(gaussian.covariance)
    safe = values > NEGLIGIBLE * values.max().clamp(min=1e-300)
    scale = torch.where(safe, values.clamp(min=1e-300).rsqrt(), 0.0)
    return (points.double() - gaussian.mean) @ (vectors * scale) @ vectors.T


def robust_gaussian(points: Tensor, *, most: int, rounds: int) -> Gaussian:
    """The Gaussian of `points` (n, d) without what has too heavy a tail, at most `most` points of them.

    Each round whitens all points by those still kept, finds the quadratic q(y) = (y'My - mean) / sqrt 2, |M|_F = 1, that
    varies most over them, and drops those beyond the least T at which more than 12 exp(-T) of them have |q| > T: more than a
    Gaussian allows. It ends when there is no such T, after `rounds` rounds or once `most` points are gone, the wildest first.
    This is the covariance filter in its practical form; the constants of its proof, beside the tail's, are left out, and the
    number of points is bounded instead.

    Source: Diakonikolas, Kamath, Kane, Li, Moitra and Stewart 2017 (ICML, arXiv 1703.00893).
    """
    kept = torch.ones(len(points), dtype=torch.bool)
    for _ in range(rounds):
        left = most - int((~kept).sum())
        if left <= 0 or int(kept.sum()) - left < 2:
            break
        rows = kept.nonzero().flatten()
        wildness = leading_quadratic(whitened(points[rows], gaussian_of(points, kept))).abs()
        order = wildness.argsort(descending=True, stable=True)
        shares = torch.arange(1, len(rows) + 1, dtype=torch.float64) / len(rows)
        heavy = (shares > TAIL * torch.exp(-wildness[order])).nonzero().flatten()
        if not len(heavy):
            break
        kept[rows[order[: min(int(heavy.max()) + 1, left)]]] = False
    return gaussian_of(points, kept)


def leading_quadratic(points: Tensor) -> Tensor:
    """float64 (n,): q(y) of whitened points (n, d) for the M, |M|_F = 1, for which q varies most; (y'My - mean) / sqrt 2.

    M is found by power iteration on the outer products yy', which are never stored: O(n d^2) a step.
    """
    lengths = points.square().sum(1)
    weights = lengths - lengths.mean()  # a start that depends on the points alone
    matrix = torch.eye(points.shape[1], dtype=torch.float64)
    for _ in range(POWER_ITERATIONS):
        matrix = (points * weights[:, None]).T @ points
        size = matrix.norm()
        if size <= 1e-12:
            return torch.zeros(len(points), dtype=torch.float64)
        matrix = matrix / size
        values = ((points @ matrix) * points).sum(1)
        weights = values - values.mean()
    return weights / math.sqrt(2)


def quantum_entropy_scores(points: Tensor, strength: float) -> tuple[Tensor, float]:
    """QUE scores of whitened points (n, d), float64 (n,), and their mean: tau_i = y_i' Q y_i / Tr Q.

    Q = exp(strength (S - I) / (|S|_2 - 1)), S the covariance of the points: between 0, where tau is the squared length, and
    infinity, where it is the squared projection on the top direction. Q = I where no direction varies by more than 1.

    Source: Dong, Hopkins and Li 2019 (NeurIPS, arXiv 1906.11366), as used by Hayase et al. 2021.
    """
    centred = points - points.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(points))
    excess = values.max() - 1
    exponents = strength * (values - 1) / excess if excess > 1e-9 else torch.zeros_like(values)
    weights = (exponents - exponents.max()).exp()
    weights = weights / weights.sum()
    scores = (centred @ vectors).square() @ weights
    return scores, float(scores.mean())
