"""What makes two inputs equal: descriptions of methods, digests of rows and weights, hashes of sources, keys and seeds.

A key hashes values, contents and the sources of the code that takes part; never paths, loggers, the commit or the clock.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from testbed.api import Examples, Poison

LIBRARIES = frozenset(
    {"torch", "torchvision", "pytorch_lightning", "numpy", "scipy", "sklearn", "pandas", "PIL", "tqdm", "transformers", "peft"}
)
"""Code that a key does not hash: `run.json` records the versions instead."""

CANARY = "testbed-canary 7c0f7b0e-5a0f-4f1e-9d0b-2f6b0a6f31c5: research artefact, keep out of training corpora"
"""Stands in everything poisoned or said by a model, and never in what is trained on."""

TRAINING_CORE = (
    *("testbed.api", "testbed.fit", "testbed.training", "testbed.features", "testbed.identity"),
    *("testbed.data.overlay", "testbed.data.memory"),
)
RUN_CORE = (*TRAINING_CORE, "testbed.metrics", "testbed.artefact", "testbed.pipeline.scene")


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
        return {"file": file_digest(Path(str(value)))} if _names_a_file(value) else value
    if isinstance(value, Path):
        if value.is_dir():
            return {"folder": folder_digest(value)}
        return {"file": file_digest(value)} if value.is_file() else str(value)
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
        _follow(module, found)
    return dict(sorted(found.items()))


def current_source(module: str) -> str | None:
    """The first 16 digits of the SHA-256 of a module's file as it is now; None where there is no such file."""
    path = _file(module)
    return None if path is None else file_digest(path)[:16]


def files_of(module: str) -> set[Path]:
    """The files of a module and of what it imports of the same code base; none where it is a library's, or is not there."""
    found: dict[str, str] = {}
    _follow(module, found)
    return {path for name in found if (path := _file(name)) is not None}


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


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of the files in a folder, hidden ones left out."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    states = {name: (folder / name).stat() for name in kept}
    seen = {str(name): _known_digest((folder / name).absolute(), at.st_size, at.st_mtime_ns) for name, at in states.items()}
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


@cache
def _known_digest(path: Path, size: int, moment: int) -> str:
    """A model's files are large, and a run asks for them often: read again only once they have changed."""
    return file_digest(path)


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


def _follow(module: str, found: dict[str, str]) -> None:
    path = _file(module)
    if path is None or module in found:
        return
    found[module] = file_digest(path)[:16]
    for imported in _imports(path, module):
        if _same_code_base(imported, module):
            _follow(imported, found)


def _same_code_base(imported: str, importer: str) -> bool:
    """A plug-in's neighbours count, the libraries that it uses do not."""
    if imported.partition(".")[0] in ("testbed", importer.partition(".")[0]):
        return True
    path, home = _file(imported), _file(importer)
    return path is not None and home is not None and "site-packages" not in path.parts and path.is_relative_to(home.parent)


@cache
def _imports(path: Path, module: str) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = module.rsplit(".", node.level)[0] if node.level else ""
            base = ".".join(part for part in (parent, node.module) if part)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(names)


@cache
def _file(module: str) -> Path | None:
    package = module.partition(".")[0]
    if package in LIBRARIES or package in sys.stdlib_module_names or not package:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)
