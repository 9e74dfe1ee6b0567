"""The poison manifest of a run: everything that must be known to make the poisoned set again, or the clean one from it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from testbed import __version__
from testbed.api import Batch, Examples, Poison
from testbed.artefact import shared_poison
from testbed.data.overlay import counted, covering, poisoned
from testbed.files import digests
from testbed.identity import describe, examples_digest, poison_digest, sources
from testbed.manifest import SCHEMA, hashed, texts_in
from testbed.marks import CANARY
from testbed.record import commit
from testbed.replay import content_digest, difference_png, keep_originals, listed, row_digests

if TYPE_CHECKING:
    from testbed.data.overlay import Poisoned
    from testbed.pipeline.scene import Scene

TOOLS = ("torch", "numpy")


@dataclass(frozen=True)
class Delivery:
    """What an attacker's rows were laid over and what came of it; `chosen` says which rows of `part` these are, if not all.

    `purpose` seeds the delivery; `stored` is the folder in which the poison lies.
    """

    clean: Examples
    poison: Poison
    mixed: Poisoned
    received: Examples
    seed: int
    part: str
    chosen: Tensor | None = None
    stored: str | None = None
    backdoored: bool = True
    model: Mapping[str, str] = field(default_factory=dict)


def manifest_of(scene: Scene, delivery: Delivery) -> dict[str, Any]:
    """The manifest as plain data; the rows that the attack replaces are kept beside the poison.

    Raises:
        pydantic.ValidationError: it would be none, which is a fault of this software.
    """
    clean, poison = delivery.clean, delivery.poison
    replaced = poison.indices < len(clean)
    before = clean[poison.indices[replaced]]
    asked = getattr(scene.attack, "poison_rate", None) if len(poison.indices) else 0.0
    described = describe(scene.attack)
    return hashed(
        {
            "schema": SCHEMA,
            "canary": CANARY,
            "backdoored": delivery.backdoored,
            "do_not_deploy": True,
            "data": _source(scene, delivery, before),
            "attack": described,
            "sources": sources(scene.attack),
            "trigger": _trigger(described, before, poison, replaced),
            "seed": scene.seed,
            "draw": scene.draw,
            **_trial(scene),
            "streams": {"attack": scene.attacker_seed, "delivery": delivery.seed},
            "rates": _rates(delivery, asked),
            "sha256": poison_digest(poison),
            "indices": poison.indices.tolist(),
            "positions": delivery.mixed.positions.tolist(),
            "cover": covering(poison).nonzero().flatten().tolist(),
            "original_labels": listed(before.labels),
            "new_labels": listed(poison.batch.labels),
            "row_sha256": {"original": row_digests(before), "new": row_digests(poison.batch)},
            "content": {"clean": content_digest(clean), "poisoned": content_digest(delivery.received)},
            "stored": _stored(scene.outputs, delivery),
            "model": dict(delivery.model),
            "tool": _tool(),
        }
    )


def tuning_manifest(scene: Scene, poison: Poison | None, clean: Examples, received: Examples, **told: Any) -> dict[str, Any]:
    """That of a fine-tuning on benign rows with the attacker's among them, which are stored; `told` is more of `Delivery`."""
    stored = None
    if poison is None:  # an attack that edits weights contributes no rows
        poison = Poison(torch.arange(0), clean[torch.arange(0)])
    else:
        stored = f"poison/{poison_digest(poison)[:16]}"
        rows = poison
        shared_poison(scene.attack, lambda: rows, scene.outputs, stored.removeprefix("poison/"), scene.workspace)
    part = "benign" if "benign" in scene.data.pools else "train"
    mixed = poisoned(clean, poison, told["seed"])
    return manifest_of(scene, Delivery(clean, poison, mixed, received, part=part, stored=stored, **told))


def part_named(scene: Scene) -> str:
    """Which part of the data set is poisoned: a pool where its rows stand for those of the training."""
    return next((name for name, pool in scene.data.pools.items() if pool is scene.data.train), "train")


def _source(scene: Scene, delivery: Delivery, before: Batch) -> dict[str, Any]:
    data, inputs = scene.data, before.inputs
    named = {part: getattr(data, part) for part in ("train", "validation", "test", "reserve")}
    named |= {f"exam {name}": exam for name, exam in data.exams.items()} | {f"pool {n}": pool for n, pool in data.pools.items()}
    dtype = str(delivery.clean[torch.arange(min(1, len(delivery.clean)))].inputs.dtype) if _is_tensor(inputs) else None
    return {
        "name": data.name,
        "kind": data.task.kind,
        "classes": list(data.task.classes),
        "part": delivery.part,
        "chosen": None if delivery.chosen is None else delivery.chosen.tolist(),
        "rows": len(delivery.clean),
        "dtype": None if dtype is None else dtype.removeprefix("torch."),
        "train": examples_digest(delivery.clean),
        "parts": {name: examples_digest(part) for name, part in named.items()},
    }


def _trigger(attack: Mapping[str, Any], before: Batch, poison: Poison, replaced: Tensor) -> dict[str, Any]:
    """What is known of the trigger, whatever the attack: its parameters, its texts, and what it did to the first row."""
    parameters = attack.get("trigger")
    digest = None
    if _is_tensor(before.inputs) and bool(replaced.any()):
        first = int(replaced.nonzero()[0])
        digest = hashlib.sha256(difference_png(before.inputs[0], poison.batch.inputs[first])).hexdigest()
    texts = [] if _is_tensor(poison.batch.inputs) else texts_in(parameters or {})
    return {"parameters": parameters, "texts": texts, "difference_png_sha256": digest}


def _trial(scene: Scene) -> dict[str, Any]:
    """Of a targeted attack: which trial this is, and which row is the target of one on a single row."""
    if not scene.attack.targeted:
        return {}
    target = scene.target
    if target is None:
        return {"trial": scene.trial}
    (row,), (label,), (digest,) = target.rows.tolist(), listed(target.labels), row_digests(target)
    return {"trial": scene.trial, "target": {"row": row, "label": label, "sha256": digest}}


def _rates(delivery: Delivery, asked: float | None) -> dict[str, Any]:
    total = max(len(delivery.mixed.source), 1)
    mine, changed, cover = counted(delivery.clean, delivery.poison)
    return {"asked": asked, "reached": mine / total, "changed": changed / total, "cover": cover / total}


def _stored(outputs: Path, delivery: Delivery) -> dict[str, Any]:
    """Where poison and originals lie, and the hash of each of their files."""
    originals = keep_originals(outputs, delivery.clean, delivery.poison)
    places = {"poison": delivery.stored, "originals": None if originals is None else f"original/{originals.name}"}
    found = {f"{place}/{name}": known for place in places.values() if place for name, known in digests(outputs / place).items()}
    return {**places, "files": found}


def _tool() -> dict[str, Any]:
    versions = {"python": platform.python_version(), **{name: version(name) for name in TOOLS}}
    return {"version": __version__, "commit": commit(), "versions": versions, "machine": platform.machine()}


def _is_tensor(inputs: Any) -> bool:
    return isinstance(inputs, Tensor)
