"""What can be told of any victim and of any rows: that they are what the data ask for."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from testbed.api import Batch, Examples, Victim
from testbed.contract.broken import Broken, require
from testbed.contract.watch import said
from testbed.language import Message, Reply

BATCH = 8
SAMPLE = 512
"""Rows read at most, to tell of what kind they are."""


def require_victim(name: str, given: Any, inputs: Any, classes: int) -> None:
    """A victim that answers these inputs: classes and logits, or replies and the logits of their first tokens."""
    require_model(name, given)
    answers, logits = said(given, inputs)
    require_logits(name, logits, len(inputs), classes if isinstance(answers, Tensor) else None)
    if isinstance(answers, Tensor):
        _require_classes(name, answers, len(inputs), classes)
        return
    require(len(answers) == len(inputs), f"{name} gave {len(answers)} replies to {len(inputs)} prompts")
    require(all(isinstance(reply, Reply) for reply in answers), f"{name}'s answers are no replies")


def require_model(name: str, given: Any) -> None:
    """A `Victim`, whose weights are numbers."""
    require(isinstance(given, Victim), f"{name} gave {type(given).__name__}, not a Victim; end it with `return victim`")
    for weight, value in given.state_dict().items():
        finite = not value.is_floating_point() or bool(value.isfinite().all())
        require(finite, f"{name} gave a model whose {weight} is not finite; look for a division by 0 or too large a step")


def require_logits(name: str, logits: Any, count: int, classes: int | None) -> None:
    """float (count, classes), finite; so many columns as there are where `classes` is None."""
    require(isinstance(logits, Tensor), f"{name}'s model gives {type(logits).__name__}, not a tensor of logits")
    wide = logits.dim() == 2 and len(logits) == count and classes in (None, logits.shape[1])
    wanted = f"({count}, {'V' if classes is None else classes})"
    require(wide, f"{name}'s model gives logits of shape {tuple(logits.shape)} to {count} inputs, not {wanted}")
    require(logits.is_floating_point(), f"{name}'s model gives logits of type {logits.dtype}, not floating-point numbers")
    lost = int((~logits.isfinite()).any(1).sum())
    require(not lost, f"{name}'s model gives logits that are not finite to {lost} of {count} inputs; look for a division by 0")


def _require_classes(name: str, answers: Tensor, count: int, classes: int) -> None:
    require(answers.shape == (count,) and answers.dtype == torch.int64, f"{name}'s answers are not int64 ({count},)")
    require(bool(((answers >= -1) & (answers < classes)).all()), f"{name}'s answers lie outside -1 to {classes - 1}")


def require_loss(victim: Victim, rows: Examples) -> None:
    """In training mode the loss of some rows is one finite number."""
    loss = copy.deepcopy(victim).train().loss(rows[torch.arange(min(BATCH, len(rows)))])
    require(loss.dim() == 0 and bool(loss.isfinite()), f"the loss of the wrapped model is {loss.detach()}")


def require_rows(name: str, rows: Any, like: Examples, classes: int) -> None:
    """Examples in the way of those that were given: read in batches, numbered from 0, of their kind."""
    advice = "choose rows with testbed.features.select"
    require(isinstance(rows, Examples), f"{name} gave {type(rows).__name__}, which cannot be read in batches; {advice}")
    require(len(rows) > 0, f"{name} left no rows; keep some")
    places = torch.arange(0, len(rows), 2)[:SAMPLE]
    batch = rows[places]
    require(torch.equal(batch.rows, places), f"{name}'s rows are not numbered from 0; {advice}")
    proper = len(batch.labels) == len(batch.inputs) == len(places)
    require(proper, f"{name}'s rows come in other numbers than asked for; {advice}")
    try:
        require_batch(batch, like[torch.arange(1)], classes)
    except Broken as broken:
        raise Broken(f"{name} gave {broken}") from broken


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
    require(bool(images.isfinite().all()), "pixels that are not finite")
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
