"""What a method needs, seen at work: which of its resources it touches in a small world, and what it asks of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from testbed.api import Attack, Batch, Defence, Examples, Invalid, Poison, Unreadable, Unsupported, Victim
from testbed.contract.examination import _noun, _rows
from testbed.contract.promise import Trial
from testbed.contract.watch import Watch
from testbed.contract.world import World, shortened
from testbed.data.overlay import anonymous
from testbed.features import _readings
from testbed.identity import overrides

STAGES = {
    "during_alignment": "alignment",
    "before_training": "rows",
    "during_training": "training",
    "after_training": "trained model",
    "at_inference": "queries",
}


KEEPS = "keeps labels"
"""Seen of an attack all of whose rows have the label that they had."""


def threat_model(method: Any, seen: Set[str]) -> list[str]:
    """What an attacker must be able to do; where a defence acts; what a detector judges. `seen` is what `needs` found."""
    if isinstance(method, Attack):
        told = {
            "trains the model": method.controls_training,
            "edits weights": overrides(method, Attack, "tamper"),
            KEEPS: KEEPS in seen,
            "trains surrogates": method.uses_surrogate,
            "knows the defence": method.adaptive,
        }
        return [word for word, true in told.items() if true] or ["changes rows"]
    if isinstance(method, Defence):
        return [word for stage, word in STAGES.items() if overrides(method, Defence, stage)] or ["nothing"]
    return sorted(method.judges)


def needs(group: str, name: str, method: Any, worlds: Mapping[str, World]) -> set[str]:
    """What it was seen to use in the first world that it works in: clean rows, training, features, gradients, weights; and
    `KEEPS` of an attack.
    """
    for world in worlds.values():
        seen: set[str] = set()
        try:
            with _spied(seen):
                _called(group, name, method, world, seen)
        except (Unsupported, Unreadable, Invalid):
            continue
        return seen
    return set()


def _called(group: str, name: str, method: Any, world: World, seen: set[str]) -> None:
    world = replace(world, data=replace(world.data, reserve=_Told(world.data.reserve, "clean rows", seen)))
    world.__dict__["victim"] = _watched(world.victim, seen)
    seen.clear()  # what the world itself did to get there
    noun, rows = _noun(group, method), anonymous(_rows(group, world))
    trial = Trial(shortened(method), name, world, rows, noun.act)
    noun.accepts(trial, trial.method)
    _readings.clear()  # another method may have asked for the same features
    seen.clear()
    before = {key: value.clone() for key, value in world.victim.state_dict().items()}
    with _Weights(seen) if group != "attack" else nullcontext():
        results = noun.act(trial, rows, Watch({}))
    if isinstance(results.get("poison"), Poison) and _kept(results["poison"], rows):
        seen.add(KEEPS)
    repaired = results.get("after_training")
    if isinstance(repaired, Victim):
        after = repaired.state_dict()
        if any(key in after and not torch.equal(after[key], value) for key, value in before.items()):
            seen.add("weights")


def _kept(poison: Poison, rows: Examples) -> bool:
    if not len(poison.indices) or int(poison.indices.max()) >= len(rows):
        return False
    before, after = rows[poison.indices].labels, poison.batch.labels
    return isinstance(before, Tensor) and isinstance(after, Tensor) and torch.equal(before, after)


class _Weights(TorchFunctionMode):
    """Inside, parameters that are read or changed are noticed, but for what models do in their own passes.

    Copies of a model, its mode, its device and which parameters ask for gradients are no reading of weights.
    """

    WITHOUT_VALUES = frozenset({"__get__", "__set__", "requires_grad_", "__deepcopy__", "__format__", "__repr__"})

    def __init__(self, seen: set[str]) -> None:
        super().__init__()
        self.seen, self.depth, self.own = seen, 0, {name: getattr(nn.Module, name) for name in ("__call__", "state_dict")}

    def __enter__(self) -> Any:
        for name, method in self.own.items():
            setattr(nn.Module, name, self._counted(method))
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        for name, method in self.own.items():
            setattr(nn.Module, name, method)
        super().__exit__(*raised)

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(module: nn.Module, *args: Any, **options: Any) -> Any:
            self.depth += 1
            try:
                return method(module, *args, **options)
            finally:
                self.depth -= 1

        return counted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.depth and getattr(func, "__name__", "") not in self.WITHOUT_VALUES:
            given = [each for arg in args for each in (arg if isinstance(arg, list | tuple) else [arg])]
            if any(isinstance(each, nn.Parameter) for each in given):
                self.seen.add("weights")
        return func(*args, **(kwargs or {}))


class _Told:
    """Rows that tell when they are read."""

    def __init__(self, examples: Examples, word: str, seen: set[str]) -> None:
        self.examples, self.word, self.seen = examples, word, seen

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: Tensor) -> Batch:
        self.seen.add(self.word)
        return self.examples[indices]


def _watched(victim: Victim, seen: set[str]) -> Victim:
    """A copy of the model whose features and gradients tell when they are asked for; its copies tell as well."""

    class Watched(type(victim)):  # type: ignore[misc]
        def observe(self, inputs: Any, layer: str) -> Any:
            seen.add("features")
            return super().observe(inputs, layer)

        def features(self, inputs: Any, layer: str) -> Any:
            seen.add("features")
            return super().features(inputs, layer)

    watched = copy.deepcopy(victim)
    watched.__class__ = Watched
    return watched


@contextmanager
def _spied(seen: set[str]) -> Iterator[None]:
    """Inside, training and gradients are noticed wherever they are asked for."""
    backward, grad, fit = torch.Tensor.backward, torch.autograd.grad, World.fit

    def backwards(*args: Any, **options: Any) -> Any:
        seen.add("gradients")
        return backward(*args, **options)

    def graded(*args: Any, **options: Any) -> Any:
        seen.add("gradients")
        return grad(*args, **options)

    def fitted(*args: Any, **options: Any) -> Any:
        seen.add("training")
        had = set(seen)
        trained = fit(*args, **options)
        seen.intersection_update(had | {"clean rows"})  # else what happens within a training is the training's
        return trained

    torch.Tensor.backward, torch.autograd.grad, World.fit = backwards, graded, fitted  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.backward, torch.autograd.grad, World.fit = backward, grad, fit  # type: ignore[method-assign]
