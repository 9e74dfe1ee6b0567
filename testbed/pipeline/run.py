"""What every pipeline does around its work: name the run, and show it once it is committed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.api import Attack, Invalid, Splits
from testbed.fit import Settings
from testbed.identity import RUN_CORE, describe, examples_digest, key, sources
from testbed.language import Judge
from testbed.pipeline.scene import Model
from testbed.record import Identity, Origin
from testbed.words import safe_name

PIPELINES = {
    "train": ("testbed.pipeline.train", "testbed.pipeline.adaptive"),
    "detect": (
        *("testbed.pipeline.train", "testbed.pipeline.detect", "testbed.pipeline.control", "testbed.pipeline.adaptive"),
        "testbed.pipeline.inspection",
        *("testbed.baseline", "testbed.numerics.word_model", "testbed.numerics.wording"),
    ),
    "degrade": (
        *("testbed.degradation", "testbed.trajectory", "testbed.language"),
        *(f"testbed.pipeline.{name}" for name in ("degrade", "given", "ground", "rates", "safety", "toll", "watch")),
    ),
    "evaluate": ("testbed.pipeline.train", "testbed.pipeline.evaluate"),
    "picture": (
        *("testbed.pipeline.train", "testbed.pipeline.picture", "testbed.figure"),
        *(f"testbed.picture.{name}" for name in ("activation_change", "features", "grad_cam", "pruning", "stealth", "view")),
    ),
    "tune": ("testbed.pipeline.train", "testbed.pipeline.tune"),
    "audit": (
        *("testbed.suspect", "testbed.verdict", "testbed.statistics"),
        *(f"testbed.pipeline.{name}" for name in ("audit", "clean_models", "inspection")),
    ),
}
"""The sources of each verb, beside the core."""

PLACES = ("root", "cache", "download", "workers", "in_memory")
"""Parameters of data that say where rows lie and how they are read, and not which they are."""


def identify(
    verb: str,
    *,
    data: Splits,
    model: Model,
    attack: Attack | None,
    method: Any,
    trainer: Settings,
    seed: int,
    origin: Origin,
    judge: Judge | None = None,
    more: Mapping[str, Any] | None = None,
    draw: int = 0,
    trial: int = 0,
    named: str = "",
) -> Identity:
    """The run's name and keys: over its values alone, and over values, contents and sources.

    `more` are further settings of a verb; `draw` and `trial` tell runs apart that differ in the attack's draw or target alone,
    and are like the seed no settings. `named` is how the run's name begins, where it is not by its attack and its method.

    Raises:
        Invalid: a negative seed, draw or trial; a name that cannot be part of a path.
    """
    for name, number in (("seed", seed), ("draw", draw), ("trial", trial)):
        if number < 0:
            raise Invalid(name, number, "must be at least 0")
    kind = {"detect": "detector", "audit": "detector", "evaluate": "model"}.get(verb, "defence")
    methods = {"attack": _word(attack), kind: _word(method)}
    words = [named] if named else [origin.names.get(group, word) for group, word in methods.items()]
    # Data have a name of their own, which may be the user's.
    repeated = [f"s{seed}", *([f"d{draw}"] if draw else []), *([f"t{trial}"] if trial else [])]
    name = safe_name("-".join([*words, data.name, *repeated]), "name")
    more = {**({} if judge is None else {"judge": judge}), **(more or {})}
    parts = {**more, "data": data, "trainer": trainer, kind: method, "model": model, "attack": attack}
    values = {part: describe(value) for part, value in parts.items() if part != "data"}
    values |= {"verb": verb, "data": _outline(data)}
    code = sources(model, attack, method, trainer, more, core=(*RUN_CORE, *PIPELINES[verb]))
    contents = _contents(data)
    numbers = {"seed": seed, "draw": draw, **({"trial": trial} if trial else {})}
    whole = key(settings=key(values=values, **numbers), contents=contents, sources=code)
    # What was asked of the data tells cells of a comparison apart; a run's own key goes by the rows that came of it.
    asked = {**values, "asked": _asked(origin.config.get("data"))}
    return Identity(verb, name, whole, key(values=asked, **numbers), key(values=asked), contents, code)


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


def _asked(config: Any) -> Any:
    """The data's configuration without the places where files lie: a file is its name."""
    if isinstance(config, Mapping):
        return {name: _asked(value) for name, value in config.items() if name not in PLACES}
    if isinstance(config, str | Path) and "/" in str(config):
        return Path(config).name
    return str(config) if isinstance(config, Path) else config


def _contents(data: Splits) -> dict[str, str]:
    parts = {part: getattr(data, part) for part in ("train", "validation", "test", "reserve")}
    pools = {f"pool {name}": examples for name, examples in data.pools.items()}
    return {name: examples_digest(examples) for name, examples in {**parts, **data.exams, **pools}.items()}
