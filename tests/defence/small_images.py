"""Grey images whose brightness tells their class, a network of a few channels, and what a defender of it has."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from testbed.api import DefenderResources, Examples, ImageTask, Task, Victim
from testbed.data.memory import MemoryExamples
from testbed.fit import Settings, constant, fit
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.model.vit_small import ViTSmall

TASK = ImageTask("images", ("a", "b", "c"), shape=(1, 16, 16), augmentation="crop")
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
SETTINGS = Settings(max_epochs=1, batch_size=16, optimiser=SGD, schedule=partial(constant), threads=1, accelerator="cpu")


def images(n: int, seed: int) -> MemoryExamples:
    """`n` rows, the classes by turns."""
    labels = torch.arange(n) % 3
    inputs = torch.randint(0, 60, (n, 1, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return MemoryExamples(inputs + (labels * 80).to(torch.uint8).view(-1, 1, 1, 1), labels)


def untrained() -> Victim:
    """4, 8 and 16 channels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ImageVictim(TASK, partial(SmallCNN, width=4))


def trained(victim: Victim, examples: Examples, *, epochs: int = 1, optimiser: Any = SGD, loss: Any = None) -> Victim:
    """The victim after so many epochs."""
    settings = replace(SETTINGS, max_epochs=epochs, optimiser=optimiser)
    return fit(victim, examples, settings=settings, seed=0, loss=loss)[0]


RESOURCES = DefenderResources(TASK, images(60, 1), images(30, 2), untrained, trained, seed=0)
LARGER = replace(TASK, shape=(1, 32, 32))
TRANSFORMER = replace(RESOURCES, task=LARGER, fresh=partial(ImageVictim, LARGER, partial(ViTSmall, depth=1)))
TEXTS = replace(RESOURCES, task=Task("text", ("a", "b", "c")), fresh=lambda: torch.nn.Linear(1, 3))
