"""Which code takes part, and digests of files: what keys are made of, without PyTorch."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

from testbed.files import digest

LIBRARIES = frozenset(
    {"torch", "torchvision", "pytorch_lightning", "numpy", "scipy", "sklearn", "pandas", "PIL", "tqdm", "transformers", "peft"}
)
"""Code that a key does not hash: `run.json` records the versions instead."""


def current_source(module: str) -> str | None:
    """The first 16 digits of the SHA-256 of a module's file as it is now; None where there is no such file."""
    path = _file(module)
    return None if path is None else digest(path)[:16]


def files_of(module: str) -> set[Path]:
    """The files of a module and of what it imports of the same code base; none where it is a library's, or is not there."""
    found: dict[str, str] = {}
    follow(module, found)
    return {path for name in found if (path := _file(name)) is not None}


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
    return digest(path)


def follow(module: str, found: dict[str, str]) -> None:
    """Add the digests of a module's file and of what it imports of the same code base."""
    path = _file(module)
    if path is None or module in found:
        return
    found[module] = digest(path)[:16]
    for imported in _imports(path, module):
        if _same_code_base(imported, module):
            follow(imported, found)


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
