"""Convolutions whose output a batch normalisation reads, found by running a network once, and how far channels stretch."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Pair(NamedTuple):
    """A normalisation, and the convolution whose output is its input, untouched."""

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d


def pairs(model: nn.Module, inputs: Any) -> list[Pair]:
    """Each `BatchNorm2d` of the model that reads what one `Conv2d` gave and nothing else, in the order in which they run.

    The model is run on `inputs` once, in evaluation mode, and left as it was. What counts is the tensor: a normalisation that
    reads a sum, a concatenation or an activation is no one's pair, whatever convolution ran or was defined before it, nor is
    one that reads different convolutions in different calls, has no weight or keeps no running statistics.
    """
    given: list[tuple[Tensor, int, nn.Conv2d]] = []
    fed: dict[nn.BatchNorm2d, list[nn.Conv2d | None]] = defaultdict(list)

    def gave(module: nn.Module, _: Any, output: Tensor) -> None:
        given.append((output, output._version, module))  # type: ignore[arg-type]

    def reads(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        # The version tells whether something was added to the output in place since.
        found = [one for tensor, version, one in given if tensor is arguments[0] and tensor._version == version]
        fed[module].append(found[-1] if found else None)  # type: ignore[index]

    modes = [(module, module.training) for module in model.modules()]
    handles = [one.register_forward_hook(gave) for one in model.modules() if isinstance(one, nn.Conv2d)]
    handles += [one.register_forward_pre_hook(reads) for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    try:
        with torch.no_grad():
            model.eval()(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    able = {norm: seen[0] for norm, seen in fed.items() if norm.affine and norm.running_var is not None and len(set(seen)) == 1}
    return [Pair(convolution, norm) for norm, convolution in able.items() if convolution is not None]


@torch.no_grad()
def lipschitz_bounds(pair: Pair) -> Tensor:
    """float64 (C,): sigma_max(W_c) |gamma_c| / sqrt(var_c + eps) for each output channel c of the pair, the UCLC.

    W_c is the channel's kernel as a matrix of input channels by positions, (I, h w); `var` are the running variances.
    Source: Zheng et al. 2022 (ECCV, arXiv 2208.03111).
    """
    kernels = pair.convolution.weight.double().flatten(2)
    variance = pair.norm.running_var.double() + pair.norm.eps  # type: ignore[union-attr]
    return torch.linalg.matrix_norm(kernels, ord=2) * pair.norm.weight.double().abs() / variance.sqrt()
