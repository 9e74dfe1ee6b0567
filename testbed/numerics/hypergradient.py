"""The gradient of an outer loss through the solution of an inner problem, without unrolling how that was solved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def hypergradient(
    outer: Callable[[Tensor], Tensor],
    step: Callable[[Tensor], Tensor],
    solution: Tensor,
    parameters: Sequence[Tensor],
    *,
    iterations: int,
) -> list[Tensor]:
    """dh/dtheta for h(d*(theta), theta), where d* is a fixed point of `step`: one tensor for each of the `parameters`.

    `outer(d)` is h and `step(d)` one contracting step of the inner solver, Phi(d, theta) = d - eta dg/dd, both made of the
    `parameters` by differentiable operations; Phi has to be differentiable a second time. With the Jacobian J = dPhi/dd at d*,

        v_0 = 0,  v_{k+1} = J^T v_k + dh/dd,   dh/dtheta = dh/dtheta (d* held) + (dPhi/dtheta)^T v_K,

    for K = `iterations`. That is the gradient through the last K steps of the solver, begun at d*; for K to infinity, and eta
    small enough for ||J|| < 1, it is the implicit gradient, v = (I - J^T)^-1 dh/dd. A parameter on which nothing depends has 0.

    Source: Grazzi et al. 2020 (ICML, arXiv 2006.16218).
    """
    start = solution.detach().requires_grad_()
    value = outer(start)
    direct = torch.autograd.grad(value, [start, *parameters], allow_unused=True)
    pull = _known(direct[0], start)
    moved = step(start)
    adjoint = torch.zeros_like(start)
    for _ in range(iterations):
        back = torch.autograd.grad(moved, start, adjoint, retain_graph=True, allow_unused=True)[0]
        adjoint = _known(back, start) + pull
    implicit = torch.autograd.grad(moved, parameters, adjoint, allow_unused=True)
    pairs = zip(parameters, direct[1:], implicit, strict=True)
    return [_known(one, parameter) + _known(other, parameter) for parameter, one, other in pairs]


def _known(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient.detach()
