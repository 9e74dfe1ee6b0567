"""What can be read off any network by running it once: its stages, its head, whether its features are channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from testbed.api import Invalid


@dataclass(frozen=True)
class Anatomy:
    """Names within a network: `stages` in the order in which they run, and the final linear layer, `head`.

    `convolutional` says that feature c, the head's c-th input, is the (pooled) channel c of a convolution.
    """

    stages: tuple[str, ...]
    head: str
    convolutional: bool


@dataclass(frozen=True)
class Call:
    """One module that ran: its name in the network, and the shape of what it returned (None where that is no tensor)."""

    name: str
    module: nn.Module
    shape: torch.Size | None


def anatomy(network: nn.Module, shape: tuple[int, int, int], classes: int) -> Anatomy:
    """Run the network once on a black image of `shape` (C, H, W), in evaluation mode, and look at what ran.

    Raises:
        Invalid: it cannot read such an image, or does not end in a linear layer with one output for each class.
    """
    calls = traced(network, shape)
    last = [place for place, call in enumerate(calls) if isinstance(call.module, nn.Linear)][-1:]
    head = calls[last[0]] if last else None
    if head is None or head.shape != (1, classes):
        advice = "end it in nn.Linear, and give its outputs as they are"
        raise Invalid("network", type(network).__name__, f"the model must end in a linear layer with {classes} outputs", advice)
    before = calls[: last[0]]
    return Anatomy(stages(network, before, head.name), head.name, reads_channels(before, head.module))


def traced(network: nn.Module, shape: tuple[int, int, int]) -> list[Call]:
    """The modules that run on one image, in the order in which they finish."""
    calls: list[Call] = []

    def note(name: str, module: nn.Module, output: object) -> None:
        calls.append(Call(name, module, output.shape if isinstance(output, Tensor) else None))

    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
        for name, module in network.named_modules()
    ]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        limit = f"the model cannot read images of {shape[0]}x{shape[1]}x{shape[2]} ({str(error).splitlines()[0]})"
        raise Invalid("network", type(network).__name__, limit, "choose a model for this size") from error
    finally:
        for handle in handles:
            handle.remove()
        network.train(training)
    return calls


def stages(network: nn.Module, calls: list[Call], head: str) -> tuple[str, ...]:
    """The network's children that have weights, in the order in which they ran, without the one that holds the head.

    A network that keeps all its stages in one `nn.Sequential` is read one level deeper.
    """
    found = children_that_ran("", network, calls, head)
    if len(found) == 1 and isinstance(network.get_submodule(found[0]), nn.Sequential):
        return children_that_ran(f"{found[0]}.", network.get_submodule(found[0]), calls, head)
    return found


def children_that_ran(prefix: str, module: nn.Module, calls: list[Call], head: str) -> tuple[str, ...]:
    """Full names of the children of `module`, itself at `prefix`, that have weights, gave a tensor and lie before the head."""
    names = {f"{prefix}{name}" for name, child in module.named_children() if any(True for _ in child.parameters())}
    names = {name for name in names if not f"{head}.".startswith(f"{name}.")}
    return tuple(dict.fromkeys(call.name for call in calls if call.name in names and call.shape is not None))


def reads_channels(calls: list[Call], head: nn.Module) -> bool:
    """Does the head read one number a channel, with no linear layer between it and the last convolution?"""
    leaves = [call for call in calls if not any(True for _ in call.module.children())]
    weighted = [call.module for call in leaves if any(weight.ndim > 1 for weight in call.module.parameters(recurse=False))]
    maps = [call.shape for call in leaves if call.shape is not None and len(call.shape) == 4]
    return bool(maps and weighted) and isinstance(weighted[-1], nn.Conv2d) and maps[-1][1] == head.in_features
