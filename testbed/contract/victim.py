"""What can be told of any victim and of any rows: that they are what the data ask for."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from testbed.api import Batch, Examples, Victim
from testbed.contract.promise import Trial, require
from testbed.contract.watch import said
from testbed.language import Message, Reply

BATCH = 8


def require_victim(name: str, given: Any, trial: Trial) -> None:
    """A victim that answers the test: classes and logits, or replies and the logits of their first tokens."""
    require(isinstance(given, Victim), f"{name} gave {type(given).__name__}, not a Victim")
    test = trial.world.data.test
    answers, logits = said(given, test[torch.arange(len(test))].inputs)
    require(bool(logits.isfinite().all()), f"{name}'s logits are not finite")
    if isinstance(answers, Tensor):
        _require_classes(name, answers, logits, trial)
        return
    require(len(answers) == len(test), f"{name} gave {len(answers)} replies to {len(test)} prompts")
    require(all(isinstance(reply, Reply) for reply in answers), f"{name}'s answers are no replies")
    require(logits.dim() == 2 and len(logits) == len(test), f"{name}'s logits are {tuple(logits.shape)}, not (B, V)")


def _require_classes(name: str, answers: Tensor, logits: Tensor, trial: Trial) -> None:
    count, classes = len(trial.world.data.test), len(trial.world.data.task.classes)
    require(answers.shape == (count,) and answers.dtype == torch.int64, f"{name}'s answers are not int64 (B,)")
    require(bool(((answers >= -1) & (answers < classes)).all()), f"{name}'s answers lie outside -1 to {classes - 1}")
    require(logits.shape == (count, classes), f"{name}'s logits are {tuple(logits.shape)}, not (B, {classes})")


def require_loss(victim: Victim, rows: Examples) -> None:
    """In training mode the loss of some rows is one finite number."""
    loss = copy.deepcopy(victim).train().loss(rows[torch.arange(min(BATCH, len(rows)))])
    require(loss.dim() == 0 and bool(loss.isfinite()), f"the loss of the wrapped model is {loss.detach()}")


def require_batch(batch: Batch, like: Batch, classes: int) -> None:
    """Inputs and labels of the kind that the data have: images, texts with classes, or prompts with answers."""
    require(len(batch.inputs) == len(batch.labels), f"{len(batch.inputs)} inputs with {len(batch.labels)} labels")
    if isinstance(like.inputs, Tensor):
        _require_images(batch.inputs, like.inputs)
    else:
        wrong = [type(one).__name__ for one in batch.inputs if not _alike(one, like.inputs[0])]
        require(not wrong, f"{len(wrong)} inputs are no {'texts' if isinstance(like.inputs[0], str) else 'prompts'}")
    if isinstance(like.labels, Tensor):
        _require_labels(batch.labels, classes)
    else:
        wrong = [answer for answer in batch.labels if not (isinstance(answer, str) and answer.strip())]
        require(not wrong, f"{len(wrong)} answers are empty, or no texts")


def _require_images(images: Any, like: Tensor) -> None:
    require(isinstance(images, Tensor), f"inputs are {type(images).__name__}, not a tensor")
    shape, wanted = tuple(images.shape[1:]), tuple(like.shape[1:])
    require(shape == wanted, f"rows of shape {shape}, where the data have {wanted}")
    require(images.dtype in {like.dtype, torch.float32}, f"rows of type {images.dtype}, where the data have {like.dtype}")
    if len(images):
        low, high = float(images.min()), float(images.max())
        require(low >= 0 and high <= 255, f"pixels from {low:g} to {high:g}, outside 0 to 255")


def _alike(one: Any, like: Any) -> bool:
    """Both texts; or both prompts, the user speaking last."""
    if isinstance(like, str):
        return isinstance(one, str)
    return isinstance(one, tuple) and bool(one) and all(isinstance(turn, Message) for turn in one) and one[-1].role == "user"


def _require_labels(labels: Any, classes: int) -> None:
    require(isinstance(labels, Tensor), f"labels are {type(labels).__name__}, not a tensor")
    require(labels.dtype == torch.int64, f"labels of type {labels.dtype}, not int64")
    require(bool(((labels >= 0) & (labels < classes)).all()), f"labels outside 0 to {classes - 1}")
