"""What every pipeline does around its work: name the run, and show it once it is committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.api import Attack, Invalid, Splits
from testbed.fit import Settings
from testbed.identity import RUN_CORE, describe, examples_digest, key, sources
from testbed.pipeline.scene import Model
from testbed.record import Identity, Origin, safe_name

PIPELINES = {
    "train": ("testbed.pipeline.train",),
    "detect": ("testbed.pipeline.train", "testbed.pipeline.detect"),
    "evaluate": ("testbed.pipeline.train", "testbed.pipeline.evaluate"),
}
"""The sources of each verb, beside the core."""


def identify(
    verb: str,
    *,
    data: Splits,
    model: Model,
    attack: Attack,
    method: Any,
    trainer: Settings,
    seed: int,
    origin: Origin,
) -> Identity:
    """The run's name and keys: over its values alone, and over values, contents and sources.

    Raises:
        Invalid: a negative seed; a name that cannot be part of a path.
    """
    if seed < 0:
        raise Invalid("seed", seed, "must be at least 0")
    kind = {"detect": "detector", "evaluate": "model"}.get(verb, "defence")
    fallbacks = {"attack": _word(attack), kind: _word(method), "data": data.name}
    name = safe_name("-".join([*(origin.names.get(group, word) for group, word in fallbacks.items()), f"s{seed}"]), "name")
    parts = {"data": data, "trainer": trainer, kind: method, "model": model, "attack": attack}
    values = {part: describe(value) for part, value in parts.items() if part != "data"}
    values |= {"verb": verb, "data": _outline(data)}
    code = sources(model, attack, method, trainer, core=(*RUN_CORE, *PIPELINES[verb]))
    contents = _contents(data)
    settings = key(values=values, seed=seed)
    return Identity(
        verb, name, key(settings=settings, contents=contents, sources=code), settings, key(values=values), contents, code
    )


def log(folder: Path, logger: Any, outputs: Path) -> Path:
    """Show a committed run to the logger, which can do it no harm."""
    if logger is not None:
        logger.show(folder, outputs)
    return folder


def _word(method: Any) -> str:
    return type(method).__name__.lower()


def _outline(data: Splits) -> dict[str, Any]:
    """What of a data set is a setting: its name, its sizes, where the reserve comes from."""
    sizes = {part: len(getattr(data, part)) for part in ("train", "validation", "test", "reserve")}
    return {"name": data.name, "task": describe(data.task), "sizes": sizes, "reserve_source": data.reserve_source}


def _contents(data: Splits) -> dict[str, str]:
    parts = {part: getattr(data, part) for part in ("train", "validation", "test", "reserve")}
    return {name: examples_digest(examples) for name, examples in {**parts, **data.exams}.items()}
