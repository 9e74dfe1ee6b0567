"""Watches a method at work in a run: what it raises, gives back, changes or draws is told in one line that names it."""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from testbed.api import (
    Defence,
    DefenderResources,
    Detector,
    Diverged,
    Examples,
    Fit,
    Invalid,
    ModelDetector,
    Unsupported,
    Victim,
)
from testbed.contract.broken import ADVICE, Broken, require, told
from testbed.contract.victim import require_logits, require_model, require_rows, require_victim
from testbed.contract.watch import random_states
from testbed.features import batches, evaluating, on_device
from testbed.identity import overrides
from testbed.words import Faulty, Refused

PROBES = 8
"""Rows that a model is asked, once a defence has handed it back."""

METHODS = (Defence, Detector, ModelDetector)


def stage(defence: Defence, name: str, given: Any, resources: DefenderResources) -> Any:
    """What a stage of a defence makes of a model or of rows; what it was given, where it has no such stage.

    Raises:
        Faulty: it failed, gave back what nobody could go on with, changed what it was given, or disturbed a global generator.
    """
    if not overrides(defence, Defence, name):
        return given
    with watched(defence, name, resources, given) as own:
        result = getattr(defence, name)(given, own)
        with torch.no_grad():
            _require_next(name, result, given, resources)
    return result


@contextmanager
def watched(method: Any, call: str, resources: DefenderResources, *given: Any) -> Iterator[DefenderResources]:
    """Inside, a method is called with the resources that this yields, and with what else it is given.

    Raises:
        Faulty: as `stage`.
    """
    theirs = {"the rows of resources.train": resources.train, "the rows of resources.reserve": resources.reserve}
    theirs |= {_called(value): value for value in given}
    theirs |= {f"resources.reference[{place}]": model for place, model in enumerate(resources.reference or ())}
    before = {name: _mark(value) for name, value in theirs.items()}
    with blamed(method):
        with _unchanged_randomness(call):
            imported = "pytorch_lightning" in sys.modules
            yield resources if imported else replace(resources, fit=_importing_apart(resources.fit))
        for name, value in theirs.items():
            kind = "model" if isinstance(value, nn.Module) else "rows"
            require(_mark(value) == before[name], f"{call} changed {name}; {ADVICE[kind]}")


@contextmanager
def blamed(method: Any, *, only_its_own: bool = False) -> Iterator[None]:
    """Errors raised inside are this method's; with `only_its_own` those that went through its own file.

    Refusals (`Invalid`, `Unsupported`, `Diverged`) and interruptions stay what they are.

    Raises:
        Faulty: in one line the kind of the method, its class, its file and line, and what was wrong.
    """
    try:
        yield
    except (Invalid, Unsupported, Diverged, Refused, Faulty):
        raise
    except Broken as broken:
        raise Faulty(f"{_title(method)} ({_file(method).name}): {broken}") from broken
    except (Exception, SystemExit) as error:
        line = _line(error, _file(method))
        if line is None and only_its_own:
            raise
        where = _file(method).name if line is None else f"{_file(method).name}, line {line}"
        raise Faulty(f"{_title(method)} ({where}): {told(error)}") from error


def require_method(method: Any) -> None:
    """Refuse what is no defence or detector, and one that asks for the poison flags without saying so in its name.

    Raises:
        Faulty: which of these.
    """
    with blamed(method):
        require(isinstance(method, METHODS), "is derived from none of Defence, Detector and ModelDetector of testbed.api")
        asks = bool(method.oracle) and "oracle" not in type(method).__name__.lower()
        require(not asks, "asks which rows are poisoned (oracle = True); say oracle in the name of its class, or do without")


def _require_next(name: str, result: Any, given: Any, resources: DefenderResources) -> None:
    """What comes next can be done with it: rows of the same kind, or a model that answers some of the defender's rows."""
    classes = len(resources.task.classes)
    if name == "before_training":
        require_rows(name, result, given, classes)
        return
    require_model(name, result)
    known = resources.reserve if len(resources.reserve) else resources.train
    rows = known[torch.arange(min(PROBES, len(known)))]
    if not len(rows.inputs):
        return
    inputs = on_device(rows.inputs, result.device)
    if resources.task.kind != "chat":
        require_victim(name, result, inputs, classes)
        return
    with evaluating(result):  # no replies: writing them takes long
        require_logits(name, result(inputs), len(inputs), None)


def _called(value: Any) -> str:
    return "the model that it is given" if isinstance(value, Victim) else "the rows that it is given"


def _mark(value: Any) -> Any:
    """Differs where anything was written into a model or into rows: sums of bits, which cost less than a digest."""
    if isinstance(value, nn.Module):
        return {name: _sum(tensor) for name, tensor in value.state_dict().items()}
    if not isinstance(value, Examples) or getattr(value, "workers", 0):  # rows in files are read anew each time
        return None
    return [_content(part) for batch in batches(value, 4096) for part in (batch.inputs, batch.labels)]


def _content(part: Any) -> Any:
    return _sum(part) if isinstance(part, Tensor) else hash(tuple(part))


def _sum(tensor: Tensor) -> tuple[Any, ...]:
    """Type, shape, and the sum of the bits read as whole numbers, which wraps around."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.detach()
    bits = bits.view(sizes[bits.element_size()]) if bits.dim() and not bits.is_complex() else bits.real.double()
    return tensor.dtype, tuple(tensor.shape), bits.sum().item()


@contextmanager
def _unchanged_randomness(call: str) -> Iterator[None]:
    """Global generators are somebody else's inside, and are put back where they were.

    Raises:
        Broken: which of them were not left alone.
    """
    before, states = random_states(), (torch.get_rng_state(), np.random.get_state(), random.getstate())
    try:
        yield
        changed = [name for name, state in random_states().items() if state != before[name]]
    finally:
        for put, state in zip((torch.set_rng_state, np.random.set_state, random.setstate), states, strict=True):
            put(state)  # type: ignore[operator]
    require(not changed, f"{call} drew from or seeded the global generator of {' and '.join(changed)}; {ADVICE['randomness']}")


def _importing_apart(fit: Fit) -> Fit:
    """The same training: Lightning, which it imports when there is something to train, draws a number as it is imported."""

    def trained(victim: Victim, examples: Examples, **options: Any) -> Victim:
        state = random.getstate()
        try:
            return fit(victim, examples, **options)
        finally:
            random.setstate(state)

    return trained


def _title(method: Any) -> str:
    kind = "detector" if isinstance(method, Detector | ModelDetector) else "defence"
    return f"{kind} {type(method).__module__}.{type(method).__qualname__}"


def _file(method: Any) -> Path:
    """Where its class is written; the name of its module where no file is known."""
    module = type(method).__module__
    return Path(getattr(sys.modules.get(module), "__file__", None) or module)


def _line(error: BaseException, file: Path) -> int | None:
    """The last line of this file that the error came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return lines[-1] if lines else None
