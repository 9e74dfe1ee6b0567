"""How far a value lies from the bulk of a few others, without assuming that the bulk is clean."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

GAUSSIAN_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

GAUSSIAN_MEAN_DEVIATION = 1.2533
"""Standard deviation of a normal distribution over its mean absolute deviation."""

FEWEST = 3
"""Of two values each lies as far from their median as the other: whatever they are, their indices are .674 and -.674."""


def anomaly_index(values: Tensor, side: Literal["low", "high"] = "low") -> Tensor:
    """Signed distance from the median in robust standard deviations, float64 (n,), positive on the suspicious side.

    `index = (median - value) / (1.4826 MAD)` for 'low' and its negative for 'high', where `MAD = median |value - median|`
    and the median of an even number is the midpoint. Where more than half of the values are equal, MAD is zero and
    1.2533 times the mean absolute deviation stands in for it, as Iglewicz and Hoaglin advise; all equal values have index 0.
    The index is therefore always finite.

    Sources: Hampel 1974 (JASA); Iglewicz and Hoaglin 1993 (How to detect and handle outliers); the use on trigger sizes:
    Wang et al. 2019 (IEEE S&P).
    """
    below = _median(values.double()) - values.double()
    deviation = below.abs()
    scale = GAUSSIAN_MAD * _median(deviation)
    if scale == 0:
        scale = GAUSSIAN_MEAN_DEVIATION * deviation.mean()
    index = below / scale if scale > 0 else torch.zeros_like(below)
    return index if side == "low" else -index


def _median(values: Tensor) -> Tensor:
    return values.quantile(0.5)
