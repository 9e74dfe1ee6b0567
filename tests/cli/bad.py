"""Defences that somebody got wrong, each in one way: a copy of this file lies in the working directory of the tests."""

from __future__ import annotations

import copy
import os
import random
import sys
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from testbed.api import Batch, Defence, DefenderResources, Examples, Victim
from testbed.features import select


@dataclass(frozen=True)
class Raises(Defence):
    """Divides by zero."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        return [victim][1 // 0]


@dataclass(frozen=True)
class Hangs(Defence):
    """Never ends, and catches what it can."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        while True:
            try:
                time.sleep(0.05)
            except Exception:
                continue


@dataclass(frozen=True)
class Exits(Defence):
    """Leaves the program."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        sys.exit("enough")


@dataclass(frozen=True)
class Dies(Defence):
    """Ends its process, and nobody can say why."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        os._exit(7)


@dataclass(frozen=True)
class Forgets(Defence):
    """Gives nothing back."""

    def at_inference(self, victim: Victim, resources: DefenderResources) -> Any:
        copy.deepcopy(victim)


@dataclass(frozen=True)
class WrongShape(Defence):
    """Gives a model of three classes back."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        repaired = copy.deepcopy(victim)
        name, head = [(name, part) for name, part in repaired.named_modules() if isinstance(part, nn.Linear)][-1]
        repaired.set_submodule(name, nn.Linear(head.in_features, 3))
        return repaired


@dataclass(frozen=True)
class NotANumber(Defence):
    """Scales weights by their smallest absolute value, which was pruned to zero."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        repaired = copy.deepcopy(victim)
        with torch.no_grad():
            weight = next(repaired.parameters())
            weight.flatten()[0] = 0
            weight.div_(weight.abs().min())
        return repaired


class Doubles:
    """Rows of another type."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: torch.Tensor) -> Batch:
        batch = self.examples[indices]
        return Batch(batch.inputs.double(), batch.labels, indices)


@dataclass(frozen=True)
class WrongType(Defence):
    """Turns images into doubles."""

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        return Doubles(received)


@dataclass(frozen=True)
class ChangesModel(Defence):
    """Works on the model that it is given."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        with torch.no_grad():
            next(victim.parameters()).mul_(0.9)
        return victim


@dataclass(frozen=True)
class ChangesRows(Defence):
    """Works on the rows that it is given."""

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        received[torch.arange(8)].inputs.zero_()
        return received


@dataclass(frozen=True)
class SeedsTorch(Defence):
    """Seeds torch, to be repeatable."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        torch.manual_seed(0)
        return copy.deepcopy(victim)


@dataclass(frozen=True)
class SeedsNumPy(Defence):
    """Seeds NumPy, to be repeatable."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        np.random.seed(0)
        return copy.deepcopy(victim)


@dataclass(frozen=True)
class SeedsPython(Defence):
    """Seeds Python, to be repeatable, and trains."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        random.seed(0)
        return resources.fit(victim, resources.reserve, epochs=1)


@dataclass(frozen=True)
class ReadsFlags(Defence):
    """Looks for the poison flags among its resources."""

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        return select(received, (~resources.poisoned).nonzero().flatten())


@dataclass(frozen=True)
class ReadsRows(Defence):
    """Looks for the poison flags among the rows."""

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        kept = torch.ones(len(received), dtype=torch.bool)
        kept[received.poison.indices] = False
        return select(received, kept.nonzero().flatten())


@dataclass(frozen=True)
class AsksForFlags(Defence):
    """Asks for the poison flags, and does not say so."""

    oracle: ClassVar[bool] = True


@dataclass(frozen=True)
class Breaks(Defence):
    """Hands a model back that fails once it has answered a few queries."""

    def at_inference(self, victim: Victim, resources: DefenderResources) -> Victim:
        class Tired(type(victim)):  # type: ignore[misc]
            def forward(self, inputs: Any) -> Any:
                if len(inputs) > 100:
                    raise RuntimeError("too many at once")
                return super().forward(inputs)

        repaired = copy.deepcopy(victim)
        repaired.__class__ = Tired
        return repaired


class Stranger:
    """No defence at all."""

    oracle = False

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        return victim
