"""(victim, examples) -> trained victim: the settings, the order of rows, and what a trained victim must be."""

from __future__ import annotations

import copy
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy
import torch
from torch import Tensor

from testbed.api import Batch, Diverged, Examples, Invalid, Victim, component
from testbed.features import read_ahead
from testbed.identity import derive, generator
from testbed.words import nearest

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from testbed.checkpointing import Resumable

Optimiser = Callable[..., torch.optim.Optimizer]
Loss = Callable[[Victim, Batch], Tensor]
Curve = list[dict[str, float]]

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true")
MOST_THREADS = 1024
AVAILABLE: dict[str, Callable[[], bool]] = {
    "auto": lambda: True,
    "cpu": lambda: True,
    "gpu": torch.cuda.is_available,
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
}
"""The accelerators, and whether this machine has them."""


@dataclass(frozen=True)
class Settings:
    """`conf/trainer`: how a victim is trained unless a defence says otherwise.

    `schedule` maps the fraction of training done, in [0, 1), to a factor of the learning rate. `max_steps`, where given, ends
    training after so many steps, however many epochs those are. A step takes `accumulate` batches. `precision` is Lightning's;
    `threads` are PyTorch's while training, null for as many as it likes (results are bit-equal only at the same number).
    At the end of an epoch, once `checkpoint_seconds` have passed, a checkpoint is written to go on from (null: never).
    """

    meaningless: ClassVar[tuple[str, ...]] = ("checkpoint_seconds",)

    max_epochs: int
    batch_size: int
    optimiser: Optimiser
    schedule: Callable[[float], float]
    precision: Annotated[str, f"choose from {', '.join(PRECISIONS)}"] = "32-true"
    channels_last: bool = True
    gradient_clip: float | None = None
    accelerator: str = "auto"
    threads: int | None = None
    max_steps: int | None = None
    accumulate: int = 1
    checkpoint_seconds: float | None = 60.0

    def check(self, victim: Victim | None = None, *, name: str = "trainer") -> None:
        """Raises `Invalid` for settings that cannot train (this victim); `name` is what the configuration calls them."""
        with component(name):
            if victim is not None and self.batch_size < least_rows(victim):
                raise Invalid("batch_size", self.batch_size, "batch normalisation cannot train on a single row", "at least 2")
            for parameter, least in (("max_epochs", 1), ("batch_size", 1), ("threads", 1), ("max_steps", 1), ("accumulate", 1)):
                if getattr(self, parameter) is not None and getattr(self, parameter) < least:
                    raise Invalid(parameter, getattr(self, parameter), f"must be at least {least}")
            if self.threads is not None and self.threads > MOST_THREADS:  # PyTorch takes any number, and dies of some
                raise Invalid("threads", self.threads, f"must be at most {MOST_THREADS}", "null for as many as PyTorch likes")
            if self.checkpoint_seconds is not None and not self.checkpoint_seconds >= 0:
                raise Invalid("checkpoint_seconds", self.checkpoint_seconds, "must be at least 0", "null writes no checkpoint")
            if self.gradient_clip is not None and not self.gradient_clip > 0:
                raise Invalid("gradient_clip", self.gradient_clip, "must be above 0", "null clips nothing")
            for parameter, known in (("precision", PRECISIONS), ("accelerator", tuple(AVAILABLE))):
                value = getattr(self, parameter)
                if value not in known:
                    raise Invalid(parameter, value, "there is no such choice", nearest(value, known))
            if not AVAILABLE[self.accelerator]():
                raise Invalid("accelerator", self.accelerator, "this machine has none", "say accelerator=auto")
            self._check_steps()

    def _check_steps(self) -> None:
        try:
            self.optimiser([torch.zeros(1, requires_grad=True)])
        except (TypeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise Invalid(*_at_fault(getattr(self.optimiser, "keywords", {}), said), said) from error
        try:
            finite = all(math.isfinite(self.schedule(done)) for done in (0.0, 0.5, 0.99))
        except ArithmeticError:
            finite = False
        if not finite:
            raise Invalid("schedule", None, "the factor of the learning rate must always be a finite number")

    @property
    def device(self) -> torch.device:
        """Where the accelerator asked for lies."""
        if self.accelerator == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device({"gpu": "cuda"}.get(self.accelerator, self.accelerator))


def _at_fault(given: Mapping[str, Any], said: str) -> tuple[str, Any]:
    """The key and the value of the argument that an optimiser complains of; the optimiser's own where it names none's value."""
    named = [(f"optimiser.{name}", value) for name, value in given.items() if said.endswith(f": {value}")]
    return named[0] if named else ("optimiser", None)


def one_cycle(done: float, *, warm_up: float = 0.25) -> float:
    """From 1/25 up to 1 during `warm_up`, then down to 0, by half cosines (Smith and Topin 2017, arXiv 1708.07120)."""
    if done < warm_up:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * done / warm_up)) / 2
    return (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) / 2


def cosine(done: float) -> float:
    """(1 + cos(pi done)) / 2 (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    return (1 + math.cos(math.pi * done)) / 2


def constant(done: float) -> float:
    """1."""
    return 1.0


def warm_cosine(done: float, *, warm_up: float = 0.05, floor: float = 0.02) -> float:
    """Linearly up to 1 during `warm_up`, then down to `floor` by a half cosine."""
    if done < warm_up:
        return max(done / warm_up, 1e-3)
    return floor + (1 - floor) * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) / 2


def fit(
    victim: Victim,
    examples: Examples,
    *,
    settings: Settings,
    seed: int,
    epochs: int | None = None,
    steps: int | None = None,
    optimiser: Optimiser | None = None,
    loss: Loss | None = None,
    callbacks: Sequence[pl.Callback] = (),
    validation: Examples | None = None,
    resumable: Resumable | None = None,
) -> tuple[Victim, Curve]:
    """Train a copy of `victim` for so many epochs or steps; also the mean loss and the validation accuracy of each epoch.

    The order of rows comes from (seed, epoch), what is random inside the victim from (seed, epoch, batch); global generators
    are left as they were. A `resumable` training goes on where a killed one was at the end of an epoch. A victim of which no
    parameter wants a gradient is trained already, and is given back as it is.

    Raises:
        Diverged: the loss or a weight became NaN or infinite.
        Invalid: there are too few rows to train on.
    """
    least = least_rows(victim)
    if len(examples) < least:
        limit = f"{len(examples)} rows are left to train on"
        raise Invalid("", None, limit, f"at least {least} {'are' if least > 1 else 'is'} needed", component="data.train")
    if not any(parameter.requires_grad for parameter in victim.parameters()):
        return placed(copy.deepcopy(victim), settings).eval(), []
    # Lightning takes seconds to import, and a run that finds its victims finished needs none of it.
    from testbed.training import Bar, Training, run_to_its_end

    plan = BatchPlan(examples, settings.batch_size, derive(seed, "order"), settings.device)
    total = length(len(plan), settings, epochs, steps)
    module = Training(placed(copy.deepcopy(victim), settings), plan, optimiser or settings.optimiser, settings.schedule, loss)
    module.seed, module.steps, module.validation = derive(seed, "augmentation"), total, validation
    with torch.random.fork_rng(), others_left_alone(), threads(settings.threads), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", message="The `srun` command is available")  # one process, whatever the machine has
        run_to_its_end(module, settings, total, [Bar(), *callbacks], resumable)
    return placed(_finite(module.victim), settings).eval(), module.curve


def least_rows(victim: Victim) -> int:
    """How many rows a batch must have: two where there is batch normalisation."""
    return 2 if any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in victim.modules()) else 1


def length(batches: int, settings: Settings, epochs: int | None, steps: int | None) -> int:
    """Optimiser steps: those asked for, else those of the epochs asked for, else what the settings say."""
    if steps is None and epochs is None:
        steps = settings.max_steps
    if steps is not None:
        return steps
    return (settings.max_epochs if epochs is None else epochs) * math.ceil(batches / settings.accumulate)


def placed(victim: Victim, settings: Settings) -> Victim:
    """On the device and in the memory format that training uses; a victim read from disk goes through the same."""
    victim = victim.to(settings.device)
    return victim.to(memory_format=torch.channels_last) if settings.channels_last else victim


class BatchPlan:
    """The batches of each epoch, in an order that depends on (seed, epoch) alone.

    A last batch of one row joins the one before it: batch normalisation cannot train on a single row.
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int, device: torch.device) -> None:
        to = getattr(examples, "to", None)
        self.examples = to(device) if to is not None and device.type != "cpu" else examples
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.ends = list(range(batch_size, len(examples), batch_size))
        if self.ends and len(examples) - self.ends[-1] == 1:
            self.ends.pop()

    def __len__(self) -> int:
        return len(self.ends) + 1

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.examples), generator=generator(derive(self.seed, f"epoch {self.epoch}")))
        yield from read_ahead(self.examples, order.tensor_split(self.ends))


@contextmanager
def others_left_alone() -> Iterator[None]:
    """The generators of Python and NumPy, which a victim may draw from, are as they were afterwards."""
    states = random.getstate(), numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])


class threads:
    """So many PyTorch threads inside; as many as before afterwards."""

    def __init__(self, number: int | None) -> None:
        self.number = number

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.number or self.before)

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self.before)


def _finite(victim: Victim) -> Victim:
    for name, value in victim.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise Diverged(f"{name} is not finite after training")
    return victim
