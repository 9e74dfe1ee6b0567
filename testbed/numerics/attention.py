"""Where a layer of a convolutional network looks: maps of attention, and how far two of them are apart."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_map(maps: Tensor, power: float = 2.0) -> Tensor:
    """float (B, H W) of length 1: A / ||A||_2, A the mean over the channels of |F|^power, for activations F (B, C, H, W).

    The length of a map that is 0 everywhere stays 0. Source: Zagoruyko and Komodakis 2017, arXiv 1612.03928.
    """
    return torch.nn.functional.normalize(maps.abs().pow(power).mean(1).flatten(1), dim=1)


def attention_distance(one: Tensor, other: Tensor, power: float = 2.0) -> Tensor:
    """A scalar: the mean over images of the Euclidean distance of their attention maps, in 0 to 2^.5.

    Activations (B, C, H, W) and (B, C', H, W).
    """
    return (attention_map(one, power) - attention_map(other, power)).norm(dim=1).mean()
