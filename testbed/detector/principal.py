"""Principal components, exact and therefore the same on every call."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-6
"""Features that vary by less than this share of their norm carry nothing but float32 rounding."""


def principal_projections(features: Tensor, components: int) -> Tensor:
    """Centred `features` (n, d) on their top right singular vectors: float64 (n, k), k = min(components, n, d).

    The eigenvectors of the smaller of the covariance (d, d) and the Gram matrix (n, n) are computed in full. Signs are
    arbitrary; features that do not vary have projections 0.
    """
    rows, columns = features.shape
    kept = min(components, rows, columns)
    values = features.double()
    centred = values - values.mean(0)
    if centred.norm() <= ROUNDING * values.norm():
        return centred.new_zeros(rows, kept)
    if columns <= rows:
        return centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -kept:].flip(1)
    squares, vectors = torch.linalg.eigh(centred @ centred.T)
    return (vectors[:, -kept:] * squares[-kept:].clamp(min=0).sqrt()).flip(1)
