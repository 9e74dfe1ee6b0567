"""Long trainings go on from the end of their last epoch after a crash: what is written of them, and what is read back.

Short trainings write nothing: the run is then the unit that is lost and made again. What comes out is bit-identical on the
same machine with the same threads and versions, for the order of rows comes from (seed, epoch) and what is random from
(seed, epoch, batch).
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import nn

from testbed.files import Damaged, digest, sweep, write_whole
from testbed.identity import tensor_digest

NAME = re.compile(r"epoch-(\d{6})\.ckpt")
OF_EVERY_MODULE = frozenset(vars(nn.Module()))
KEPT = 2
"""The last, and the one before it, should the last be damaged."""


class WholeFiles(CheckpointIO):
    """Checkpoints that are the old or the new, never half: written beside their place, brought to the disk, renamed.

    Lightning's own goes through TMPDIR, and is copied, not renamed, where that is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        whole = io.BytesIO()
        torch.save(checkpoint, whole)
        write_whole(Path(path), whole.getvalue())
        write_whole(_beside(Path(path)), digest(Path(path)) + "\n")

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Raises `Damaged` where the file is not what was written."""
        require_whole(Path(path))
        found: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return found

    def remove_checkpoint(self, path: Any) -> None:
        _beside(Path(path)).unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)


def require_whole(path: Path) -> None:
    """Raises `Damaged` unless a checkpoint has the SHA-256 that stands in the file beside it."""
    beside = _beside(path)
    if not beside.is_file():
        raise Damaged(f"{path} has no digest beside it")
    if digest(path) != beside.read_text(encoding="ascii").strip():
        raise Damaged(f"{path} is not what was written: its SHA-256 is another than {beside.name} says")


@dataclass(frozen=True)
class Resumable:
    """Where the checkpoints of one training lie, and how many seconds of training may at most be lost beyond an epoch.

    `mark` stands in each of them, as in the weights that will come out.
    """

    folder: Path
    seconds: float
    mark: Mapping[str, str] = field(default_factory=dict)

    def last(self) -> Path | None:
        """The newest checkpoint that is whole; a damaged one is named, and the one before it taken."""
        sweep(self.folder)
        for path in sorted((path for path in self.folder.glob("epoch-*.ckpt") if NAME.fullmatch(path.name)), reverse=True):
            try:
                require_whole(path)
            except Damaged as why:
                print(f"{why}; an earlier one is used", flush=True)
            else:
                return path
        return None

    def begin(self) -> dict[str, Any] | None:
        """What the newest checkpoint holds, told to whoever watches; None where a training begins."""
        last = self.last()
        if last is None:
            return None
        print(f"the training goes on after epoch {int(last.stem.removeprefix('epoch-'))}: {self.folder.name}", flush=True)
        return WholeFiles().load_checkpoint(last, map_location="cpu")

    def drop(self) -> None:
        """The training has ended: its checkpoints have served."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


class EpochEnds(pl.Callback):
    """Between two epochs, writes a checkpoint once so many seconds have passed since the one before."""

    def __init__(self, place: Resumable) -> None:
        self.place = place

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.since = time.monotonic()
        self.before = hidden_state(pl_module)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["testbed"] = dict(self.place.mark)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 0 or time.monotonic() - self.since < self.place.seconds:
            return
        changed = sorted(name for name, value in hidden_state(pl_module).items() if self.before.get(name) != value)
        if changed:  # it could not be brought back, and another model would come out
            print(f"no checkpoint: {changed[0]} changes in training, and is no part of the weights", flush=True)
            self.since = float("inf")
            return
        trainer.save_checkpoint(self.place.folder / f"epoch-{pl_module.epoch:06}.ckpt")
        for old in sorted(self.place.folder.glob("epoch-*.ckpt"))[:-KEPT]:
            trainer.strategy.checkpoint_io.remove_checkpoint(old)
        self.since = time.monotonic()


def hidden_state(module: nn.Module) -> dict[str, str]:
    """What a victim remembers in plain attributes and in buffers that are not stored, by name, as text.

    Not seen is what a closure remembers, and what cannot be pickled.
    """
    found: dict[str, str] = {}
    for name, part in module.named_modules():
        if isinstance(part, pl.LightningModule):
            continue
        for key, value in vars(part).items():
            if key not in OF_EVERY_MODULE:
                found[f"{name}.{key}"] = _shown(value)
        for key in part._non_persistent_buffers_set:
            found[f"{name}.{key}"] = _shown(part._buffers[key])
    return found


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return tensor_digest(value)
    if isinstance(value, torch.Generator):
        return tensor_digest(value.get_state())
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
        return type(value).__qualname__


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
