"""Bounded changes in whole grey levels, as stored images have them."""

from __future__ import annotations

from torch import Tensor


def whole_levels(changed: Tensor, clean: Tensor, max_change: float) -> Tensor:
    """The whole grey levels nearest to `changed` (n, C, H, W), of the dtype of `clean`, no further from it than `max_change`.

    Rounding may pass a bound that is no whole number: such a pixel is rounded towards its clean value instead. Within a bound
    below 1 no pixel of a whole level has another to go to.
    """
    least, most = (clean.float() - max_change).ceil(), (clean.float() + max_change).floor()
    return changed.round().clamp(least, most).to(clean.dtype)
