"""What makes two inputs equal: descriptions of methods, digests of rows and weights, hashes of sources, keys and seeds.

A key hashes values, contents and the sources of the code that takes part; never paths, loggers, the commit or the clock.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from testbed.api import Examples, Poison
from testbed.files import digest
from testbed.source import current_source, folder_digest, follow

TRAINING_CORE = (
    *(
        "testbed.api",
        "testbed.rows",
        "testbed.fit",
        "testbed.training",
        "testbed.checkpointing",
        "testbed.features",
        "testbed.identity",
        "testbed.source",
    ),
    *("testbed.data.overlay", "testbed.data.memory"),
)
RUN_CORE = (*TRAINING_CORE, "testbed.metrics", "testbed.artefact", "testbed.target", "testbed.pipeline.scene")


def derive(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose: the first 63 bits of SHA-256('seed:purpose')."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str = "") -> torch.Generator:
    """A random generator for one purpose; the global one is never used."""
    return torch.Generator().manual_seed(derive(seed, purpose) if purpose else seed)


def key(**parts: Any) -> str:
    """16 hexadecimal digits over the parts as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def describe(value: Any) -> Any:
    """The values that make up an object, as plain data: its class and its constructor's arguments, read back by name.

    A file is its contents, whatever its path, and so is a folder that is given as a `Path`. Raises:
        TypeError: a constructor that does not store an argument under the argument's own name; a closure or a method.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return {"file": digest(Path(str(value)))} if _names_a_file(value) else value
    if isinstance(value, Path):
        if value.is_dir():
            return {"folder": folder_digest(value)}
        return {"file": digest(value)} if value.is_file() else str(value)
    if isinstance(value, Mapping):
        return {str(name): describe(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [describe(item) for item in value]
        return sorted(items, key=json.dumps) if isinstance(value, set | frozenset) else items
    if isinstance(value, Tensor):
        return {"tensor": tensor_digest(value)}
    if isinstance(value, partial):
        return {
            "call": _name(value.func),
            **({"given": describe(value.args)} if value.args else {}),
            **describe(value.keywords),
        }
    if (
        inspect.ismethod(value)
        or "<locals>" in getattr(value, "__qualname__", "")
        or getattr(value, "__name__", "") == "<lambda>"
    ):
        raise TypeError(f"{value} cannot be told from others of its kind; use a function of a module, or functools.partial")
    if inspect.isfunction(value) or inspect.isclass(value) or inspect.isbuiltin(value):
        return _name(value)
    return {"class": _name(type(value)), **{name: describe(item) for name, item in arguments(value).items()}}


def arguments(value: Any) -> dict[str, Any]:
    """The constructor's arguments of an object, read back from its attributes."""
    named = {}
    for name, parameter in inspect.signature(type(value).__init__).parameters.items():
        if name in ("self", *getattr(value, "meaningless", ())) or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            continue
        if not hasattr(value, name):
            raise TypeError(f"{_name(type(value))} does not store its argument {name!r} under that name")
        named[name] = getattr(value, name)
    return named


def sources(*values: Any, core: Iterable[str] = ()) -> dict[str, str]:
    """Module name -> digest of its file, for the classes in `values`, what they import of the same code base, and the core."""
    found = {module: current_source(module) or "" for module in core}
    for module in [name for value in values for name in _modules(value)]:
        follow(module, found)
    return dict(sorted(found.items()))


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over dtype, shape and bytes, wherever the tensor lies and whatever its strides."""
    plain = tensor.detach().cpu().contiguous()
    head = f"{plain.dtype}{tuple(plain.shape)}".encode()
    return hashlib.sha256(head + plain.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def weights_digest(victim: nn.Module) -> str:
    """SHA-256 over the names and values of parameters and buffers."""
    state = {name: tensor_digest(value) for name, value in victim.state_dict().items()}
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def examples_digest(examples: Examples) -> str:
    """SHA-256 over the rows of a data set: its own `digest` if it has one, otherwise over what it returns."""
    stored = getattr(examples, "digest", None)
    if isinstance(stored, str):
        return stored
    whole = hashlib.sha256()
    for start in range(0, len(examples), 1024):
        batch = examples[torch.arange(start, min(start + 1024, len(examples)))]
        for part in (batch.inputs, batch.labels):
            whole.update(_content(part).encode())
    return whole.hexdigest()


def poison_digest(poison: Poison) -> str:
    """SHA-256 over the indices, inputs and labels of a poison."""
    parts = [_content(part) for part in (poison.indices, poison.batch.inputs, poison.batch.labels)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def overrides(method: Any, base: type, *names: str) -> bool:
    """Does the method's class define one of these stages itself?"""
    return any(getattr(type(method), name, None) is not getattr(base, name) for name in names)


def _content(part: Any) -> str:
    """Rows as they are: a text among them that happens to name a file stays a text."""
    return tensor_digest(part) if isinstance(part, Tensor) else json.dumps(part)


def _names_a_file(value: Any) -> bool:
    if not isinstance(value, str) or not ("/" in value or "." in value):
        return False
    try:
        return Path(value).is_file()
    except OSError:  # too long to be a name: a text
        return False


def _name(value: Callable[..., Any]) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _modules(value: Any) -> Iterable[str]:
    """Modules of every class and function that a description would name."""
    if isinstance(value, Mapping):
        yield from (module for item in value.values() for module in _modules(item))
    elif isinstance(value, list | tuple):
        yield from (module for item in value for module in _modules(item))
    elif isinstance(value, partial):
        yield value.func.__module__
        yield from _modules(value.keywords)
    elif inspect.isfunction(value) or inspect.isclass(value):
        yield value.__module__
    elif value is not None and not isinstance(value, bool | int | float | str | Path | Tensor):
        yield from (cls.__module__ for cls in type(value).__mro__)
        yield from _modules(arguments(value))
