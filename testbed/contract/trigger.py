"""What a trigger promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from testbed.api import Batch, Examples, Trigger
from testbed.contract.promise import Promise, Results, Trial, require
from testbed.contract.watch import Watch, fingerprint
from testbed.data.overlay import rows_of
from testbed.identity import derive

ROUNDING = 0.501
"""Half a grey level, and what float32 adds to it."""

CLOSE = 0.01
"""Grey levels by which float32 images may differ between batches of different sizes."""


def act(trial: Trial, rows: Examples, watch: Watch) -> Results:
    """A batch of the data, stamped as it is stored and, where it is numbers, as float32."""
    batch = _batch(rows)
    return {name: _stamped(trial, inputs, batch.rows, watch) for name, inputs in _forms(batch).items()}


def accepts(trial: Trial, trigger: Trigger) -> None:
    """The trigger's own check, where it has one."""
    if hasattr(trigger, "check"):
        trigger.check(trial.world.data.task)


def keeps_shape_and_type(trial: Trial) -> None:
    """As many inputs as before, of the same shape and type, with finite pixels in 0..255; every text is another one."""
    for name, before in _forms(_batch(trial.rows)).items():
        after = trial.first.results[name]
        require(type(after) is type(before) and len(after) == len(before), f"{name}: it gave something else than a batch")
        if isinstance(before, Tensor):
            alike = after.shape == before.shape and after.dtype == before.dtype
            require(alike, f"{name}: {after.dtype} {tuple(after.shape)} instead of {before.dtype} {tuple(before.shape)}")
            require(bool(((after >= 0) & (after <= 255)).all()), f"{name}: pixels outside 0 to 255")
        else:
            _require_written(before, after)


def rounds_as_stored(trial: Trial) -> None:
    """What it makes of stored pixels is the rounded form of what it makes of float32 ones."""
    results = trial.first.results
    if "float32" in results:
        apart = float((results["float32"] - results["stored"].float()).abs().max())
        require(apart <= ROUNDING, f"they lie {apart:.3g} grey levels apart")


def knows_only_the_row(trial: Trial) -> None:
    """Neither the order of a batch, nor its size, nor its other rows play a part."""
    batch = _batch(trial.rows)
    count = len(batch.rows)
    parts = {"order": torch.arange(count).flip(0), "size": torch.arange(1), "company": torch.arange(1, count, 3)}
    for name, inputs in _forms(batch).items():
        whole = trial.first.results[name]
        for what, chosen in parts.items():
            alone = trial.method(rows_of(inputs, chosen), batch.rows[chosen], _seed(trial))
            alike = _close(rows_of(whole, chosen), alone, CLOSE if name == "float32" else 1)
            require(alike, f"the {what} of the batch changes what a row becomes")


PROMISES = (
    Promise("it keeps the shape and the type of a batch, pixels within 0 to 255, and no text as it was", keeps_shape_and_type),
    Promise("stored and float32 images become the same, up to rounding", rounds_as_stored),
    Promise("what becomes of a row depends on the seed and the row, not on its batch", knows_only_the_row),
)


def _require_written(before: Sequence[Any], after: Sequence[Any]) -> None:
    """Texts stay texts and prompts prompts, with the same speakers; none is as it was, or it would be no poison."""
    for one, other in zip(before, after, strict=True):
        require(_roles(other) == _roles(one), f"it made {type(other).__name__} of {type(one).__name__}, or changed who speaks")
    same = sum(one == other for one, other in zip(before, after, strict=True))
    require(same == 0, f"{same} of {len(before)} texts are as they were")


def _roles(one: Any) -> Any:
    return str if isinstance(one, str) else [getattr(turn, "role", None) for turn in one]


def _batch(rows: Examples) -> Batch:
    batch = rows[torch.arange(0, len(rows), max(1, len(rows) // 16))]
    return Batch(batch.inputs, batch.labels, 3 * batch.rows + 5)  # positions in some larger whole


def _forms(batch: Batch) -> dict[str, Any]:
    if not isinstance(batch.inputs, Tensor):
        return {"stored": list(batch.inputs)}
    return {"stored": batch.inputs, "float32": batch.inputs.float()}


def _stamped(trial: Trial, inputs: Any, rows: Tensor, watch: Watch) -> Any:
    before = fingerprint(inputs, None)
    stamped = trial.method(inputs, rows, _seed(trial))
    if fingerprint(inputs, None) != before:
        watch.changed["rows"].append("the batch")
    return stamped


def _seed(trial: Trial) -> int:
    return derive(trial.world.seed, "trigger")


def _close(one: Any, other: Any, tolerance: float) -> bool:
    if not isinstance(one, Tensor):
        return bool(one == other)
    return one.shape == other.shape and bool(((one.float() - other.float()).abs() <= tolerance).all())
