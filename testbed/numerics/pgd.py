"""Projected gradient ascent: the change within a bound that raises a loss most."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def pgd(
    loss_of: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    max_change: float,
    steps: int,
    step_size: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images x' with |x' - x| <= max_change in every pixel, in 0..255, for which `loss_of` is high: float32, as `inputs`..

        x' <- clip(x' + step_size sign(d sum loss_of(x') / d x')),  `steps` times,

    from x, or with a `generator` from a place drawn uniformly within the bound. `loss_of` gives a loss a row or their sum; it
    should leave nothing random to its model, and freeze it (`trigger_inversion.frozen`), for only the images are to be moved.
    To lower a loss, hand in its negative. `inputs` (B, C, H, W) are in 0..255, of any type; all of them are moved at once.

    Source: Madry et al. 2018, arXiv 1706.06083.
    """
    clean = inputs.detach().float()
    low, high = (clean - max_change).clamp(min=0), (clean + max_change).clamp(max=255)
    found = clean
    if generator is not None:
        drawn = torch.rand(clean.shape, generator=generator).to(clean.device)
        found = (clean + (2 * drawn - 1) * max_change).clamp(0, 255)
    for _ in range(steps):
        free = found.detach().requires_grad_()
        with torch.enable_grad():
            slope = torch.autograd.grad(loss_of(free).sum(), free)[0]
        found = torch.minimum(torch.maximum(found + step_size * slope.sign(), low), high)
    return found.detach()
