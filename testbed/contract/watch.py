"""A record of what a call gave, and of what it did to things that it should have left alone."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from testbed.api import Examples, Victim
from testbed.features import batches, evaluating
from testbed.identity import generator, tensor_digest, weights_digest


@dataclass
class Watch:
    """What calls changed that was not theirs, in words."""

    rows: Mapping[str, Examples]
    changed: dict[str, list[str]] = field(default_factory=lambda: {"rows": [], "model": [], "randomness": []})

    @contextmanager
    def model(self, victim: Victim) -> Iterator[None]:
        """Inside, a victim is somebody else's."""
        before = _model_state(victim)
        yield
        self.changed["model"] += _differing(before, _model_state(victim))

    @contextmanager
    def models(self, *given: Any) -> Iterator[None]:
        """The same for all victims among what is given."""
        with ExitStack() as watched:
            for victim in given:
                if isinstance(victim, Victim):
                    watched.enter_context(self.model(victim))
            yield

    @contextmanager
    def everything(self, salt: int) -> Iterator[None]:
        """Inside, rows and the global random states are somebody else's; the latter begin at `salt`."""
        before = {name: rows_digest(examples) for name, examples in self.rows.items()}
        with randomness(salt):
            drawn = random_states()
            yield
            self.changed["randomness"] += _differing(drawn, random_states())
        self.changed["rows"] += _differing(before, {name: rows_digest(examples) for name, examples in self.rows.items()})


def fingerprint(value: Any, inputs: Any) -> Any:
    """Plain data that are equal for equal results; of a victim, its weights and what it says to `inputs`."""
    if isinstance(value, Tensor):
        return tensor_digest(value)
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Victim):
        return [type(value).__qualname__, weights_digest(value), fingerprint(said(value, inputs), inputs)]
    if isinstance(value, Mapping):
        return {str(name): fingerprint(item, inputs) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [fingerprint(item, inputs) for item in value]
    if isinstance(value, Examples):
        return rows_digest(value)
    return [type(value).__qualname__, fingerprint(vars(value), inputs)]


@torch.no_grad()
def said(victim: Victim, inputs: Any) -> Any:
    """A victim's answers and logits, in evaluation mode."""
    with evaluating(victim):
        return [victim.answers(inputs), victim(inputs)]


def rows_digest(examples: Examples) -> str:
    """SHA-256 over the rows as they are read now, whatever the data set says of itself."""
    state = hashlib.sha256()
    for batch in batches(examples, 1024):
        for part in (batch.inputs, batch.labels):
            state.update((tensor_digest(part) if isinstance(part, Tensor) else json.dumps(repr(part))).encode())
    return state.hexdigest()


@contextmanager
def randomness(salt: int) -> Iterator[None]:
    """Inside, the global generators of torch, NumPy and Python begin at `salt`; afterwards they are as they were."""
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.set_rng_state(generator(salt, "global").get_state())
            np.random.set_state(np.random.RandomState(salt).get_state())
            random.setstate(random.Random(salt).getstate())
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


def random_states() -> dict[str, str]:
    """The states of the global generators, in words that are equal where they are."""
    return {
        "torch": tensor_digest(torch.get_rng_state()),
        "NumPy": repr([part.tolist() if hasattr(part, "tolist") else part for part in np.random.get_state()]),
        "Python": repr(random.getstate()),
    }


def _model_state(victim: Victim) -> dict[str, Any]:
    modules = list(victim.named_modules())
    hooks = {name: [len(kept) for kept in _hooks(module)] for name, module in modules}
    return {
        "weights": weights_digest(victim),
        "training mode": [(name, module.training) for name, module in modules],
        "requires_grad": [(name, value.requires_grad) for name, value in victim.named_parameters()],
        "gradients": [(name, None if value.grad is None else tensor_digest(value.grad)) for name, value in _parameters(victim)],
        "hooks": hooks,
    }


def _parameters(victim: Victim) -> list[tuple[str, nn.Parameter]]:
    return list(victim.named_parameters())


def _hooks(module: nn.Module) -> list[Mapping[int, Any]]:
    return [module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks]


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name, value in before.items() if after[name] != value]
