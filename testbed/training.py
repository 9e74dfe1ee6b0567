"""How Lightning trains a victim: one LightningModule, so that victims and wrappers stay plain modules."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from testbed.api import Batch, Diverged, Examples, Victim
from testbed.checkpointing import EpochEnds, Resumable, WholeFiles
from testbed.features import accuracy, evaluating, progress
from testbed.identity import derive
from testbed.words import Terminated

if TYPE_CHECKING:
    from testbed.fit import BatchPlan, Curve, Loss, Optimiser, Settings

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


class Training(pl.LightningModule):
    """The one LightningModule: asks the victim for its loss, and says when that was not finite."""

    seed: int
    steps: int
    validation: Examples | None = None

    def __init__(
        self, victim: Victim, plan: BatchPlan, optimiser: Optimiser, schedule: Callable[[float], float], loss: Loss | None
    ) -> None:
        super().__init__()
        self.victim, self.plan, self.loss = victim, plan, loss
        self.optimiser, self.schedule = optimiser, schedule
        self.losses: list[Tensor] = []
        self.curve: Curve = []
        self.begun: Mapping[str, Any] = {}

    def configure_optimizers(self) -> Any:
        chosen = self.optimiser([parameter for parameter in self.victim.parameters() if parameter.requires_grad])
        factor = torch.optim.lr_scheduler.LambdaLR(chosen, lambda step: self.schedule(min(step, self.steps - 1) / self.steps))
        if self.begun:
            chosen.load_state_dict(self.begun["optimizer_states"][0])
            factor.load_state_dict(self.begun["lr_schedulers"][0])
        return {"optimizer": chosen, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def resume(self, begun: Mapping[str, Any]) -> None:
        """Take up a training where its checkpoint was written; its steps and epochs are counted on."""
        self.begun, self.curve = begun, list(begun["curve"])
        self.load_state_dict(begun["state_dict"])

    @property
    def epoch(self) -> int:
        """Epochs that are over, with those before a crash."""
        return int(self.begun.get("epochs", 0)) + int(self.current_epoch)

    @property
    def done(self) -> int:
        """Steps that were made before a crash."""
        return int(self.begun.get("steps", 0))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"curve": self.curve, "epochs": self.epoch, "steps": self.done + self.global_step}

    def on_train_start(self) -> None:
        precision = self.trainer.precision_plugin
        if type(precision).__qualname__ in self.begun:  # the scale of a loss in half precision
            precision.load_state_dict(self.begun[type(precision).__qualname__])

    def on_train_epoch_start(self) -> None:
        self.plan.epoch = self.epoch
        self.losses.clear()
        self.victim.train()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # At every batch, so that what is random in one depends on nothing that came before it.
        seed = derive(self.seed, f"epoch {self.epoch}, batch {batch_idx}")
        torch.manual_seed(seed)
        numpy.random.seed(seed % 2**32)
        random.seed(seed)

    def training_step(self, batch: Batch) -> Tensor:
        loss = self.victim.loss(batch) if self.loss is None else self.loss(self.victim, batch)
        self.losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        losses = torch.stack(self.losses).float().cpu()
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            step = self.epoch * len(self.plan) + int(bad[0])
            raise Diverged(f"the loss was {losses[bad[0, 0]].item()} at step {step} (epoch {self.epoch})")
        row = {"epoch": float(self.epoch + 1), "loss": losses.mean().item()}
        if self.validation is not None and len(self.validation):
            row["validation_accuracy"] = accuracy(self.victim, self.validation)
        self.curve.append(row)


class Bar(pl.Callback):
    """A progress bar over all steps, on a terminal, once training has taken two seconds."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar = progress(range(int(pl_module.steps)), "training")  # type: ignore[arg-type]
        self.steps = islice(iter(self.bar), int(pl_module.done), None)  # type: ignore[arg-type]

    def on_train_batch_end(self, *_: Any) -> None:
        next(self.steps, None)

    def on_train_end(self, *_: Any) -> None:
        self.bar.close()  # type: ignore[attr-defined]


class AtSteps(pl.Callback):
    """Calls `act(step, victim)` before the first step and after each of these steps; training goes on as if it had not.

    What is random, the modes of modules and the gradients are as they were afterwards, so that the weights that come out are
    bit-equal to those of a training that nobody watches.
    """

    def __init__(self, steps: Sequence[int], act: Callable[[int, Victim], None]) -> None:
        self.steps, self.act, self.last = frozenset(steps), act, -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(0, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._look(trainer.global_step, pl_module)

    def _look(self, step: int, module: pl.LightningModule) -> None:
        if step not in self.steps or step == self.last:  # with accumulated batches a step ends once, but batches end often
            return
        self.last = step
        with torch.random.fork_rng(), evaluating(module.victim):  # type: ignore[arg-type]
            self.act(step, module.victim)  # type: ignore[arg-type]


def run_to_its_end(
    module: Training, settings: Settings, steps: int, callbacks: list[pl.Callback], resumable: Resumable | None = None
) -> None:
    """Train for so many steps, after those that were made before a crash; Ctrl-C and SIGTERM come out as what they were.

    Lightning would turn the one into exit(1), deaf to any further Ctrl-C, and the other into exit(0).
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        begun = None if resumable is None else resumable.begin()
        if begun is not None:
            module.resume(begun)
        watching = [] if resumable is None else [EpochEnds(resumable)]
        lean_trainer(settings, steps - module.done, [*callbacks, *watching]).fit(module, train_dataloaders=module.plan)
    except SIGTERMException as asked:
        raise Terminated("SIGTERM") from asked
    except SystemExit as left:
        if isinstance(left.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from left
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def lean_trainer(settings: Settings, steps: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    """A Trainer with everything switched off that costs time a step and that the run folder does better."""
    return pl.Trainer(
        max_epochs=-1,
        max_steps=steps,
        accumulate_grad_batches=settings.accumulate,
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]
        gradient_clip_val=settings.gradient_clip,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # Named, for inside a cluster's job Lightning would take the signals and the ranks of the job for its own.
        default_root_dir=os.devnull,  # where it would look for checkpoints of its own, inside such a job
        plugins=[WholeFiles(), LightningEnvironment()],
    )
