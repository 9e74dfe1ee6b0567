"""The rows that a finished run was trained on, as files, with their manifest, a data card and a Croissant description."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from testbed import __version__
from testbed.api import Examples, Invalid, Poison, Splits
from testbed.exported.card import About, about_parts, card, licence_of
from testbed.exported.croissant import croissant
from testbed.exported.form import ORDER, writer_of
from testbed.exported.row import APPENDED, Part, fresh, write_private
from testbed.files import DIGESTS, measured
from testbed.language import ChatTask
from testbed.manifest import Manifest, read_manifest
from testbed.record import Origin
from testbed.replay import (
    apply,
    chosen_rows,
    delivered_order,
    difference_png,
    kept_poison,
    require_clean,
    require_files,
)


def export(
    *,
    run: str,
    data: Splits,
    paths: Mapping[str, str],
    to: str | None = None,
    format: Literal["image_folder", "jsonl"] | None = None,
    rows: Literal["poisoned", "clean"] = "poisoned",
    test: bool = True,
    private: bool = False,
    origin: Origin | None = None,
) -> int:
    """Write the set of a run's manifest below `to`, or below the outputs; `test` adds the clean test rows.

    `private` permits conversations of a user's own, which are then for the owner's eyes alone.

    Raises:
        Invalid: no such run; other data, or another poison, than the run was made with; a format that does not suit; a folder
            that is there already.
    """
    folder = Path(run)
    manifest = read_manifest(folder / "manifest.json")
    writer = writer_of(format, manifest.data.kind)
    _require_permission(data, private)
    clean = chosen_rows(manifest, _part(data, manifest.data.part))
    require_clean(manifest, clean)
    poison = _poison_of(folder, manifest) if rows == "poisoned" else None
    parts = [Part.clean("train", clean) if poison is None else _poisoned(manifest, clean, poison)]
    parts += [Part.clean("test", data.test)] if test else []
    names = (origin or Origin()).names
    about = _about(manifest, folder, parts, poisoned=poison is not None, licence=licence_of(names.get("data", ""), data.name))
    place = (
        Path(to) if to else Path(paths["outputs"]) / "export" / (folder.resolve().name + ("" if about.poisoned else "-clean"))
    )
    with fresh(place, private=private) as new:
        # The manifest first: nothing poisoned is ever on the disk without it.
        if poison is not None:
            write_private(new / "manifest.json", (folder / "manifest.json").read_bytes(), private=private)
            _draw(manifest, clean, poison, new, private=private)
        write_private(new / "README.md", card(about), private=private)
        for part in parts:
            writer(part, new, data.task.classes, private=private)
        described = croissant(about, new, made_on=datetime.now(UTC).date().isoformat())
        write_private(new / "croissant.json", _json(described), private=private)
        write_private(new / DIGESTS, _json(measured(new)), private=private)
    told = ", ".join(f"{part}: {count} rows, {poisoned} poisoned" for part, (count, poisoned) in about.counts.items())
    print(f"{told}\n{place}")
    return 0


def _require_permission(data: Splits, private: bool) -> None:
    """Raises `Invalid` for conversations that are no invention of ours, unless the user says that they may be written out."""
    if isinstance(data.task, ChatTask) and not data.task.toy and not private:
        limit = "these conversations are from files of your own, with an attacker's answers among them"
        raise Invalid("private", private, limit, "say private=true to write them out, readable by you alone")


def _part(data: Splits, name: str) -> Examples:
    if name == "train":
        return data.train
    if name not in data.pools:
        raise Invalid("", data.name, f"has no rows called {name}, which the run was trained on", "give all files", "data")
    return data.pools[name]


def _poison_of(folder: Path, manifest: Manifest) -> Poison:
    """The attacker's rows, from the outputs that the run lies in, where the originals are looked at too if they are there."""
    if manifest.stored.poison is None:
        limit = "its attack contributes no rows"
        raise Invalid("run", folder, limit, "say rows=clean, or name another run")
    outputs, originals = folder.resolve().parent.parent, manifest.stored.originals
    if originals is not None and (outputs / originals).is_dir():
        require_files(manifest, originals, outputs / originals, "originals")
    return kept_poison(outputs / manifest.stored.poison, manifest)


def _poisoned(manifest: Manifest, clean: Examples, poison: Poison) -> Part:
    order = delivered_order(manifest)
    mine, cover = torch.zeros(len(order), dtype=torch.bool), torch.zeros(len(order), dtype=torch.bool)
    positions = torch.tensor(manifest.positions, dtype=torch.int64)
    mine[positions] = True
    cover[positions[torch.tensor(manifest.cover, dtype=torch.int64)]] = True
    source = torch.where(order < manifest.data.rows, order, APPENDED)
    return Part("train", apply(manifest, poison, clean), source, mine & ~cover, cover)


def _about(manifest: Manifest, folder: Path, parts: list[Part], *, poisoned: bool, licence: str) -> About:
    attack = str(manifest.attack.get("class", "")).rpartition(".")[2]
    facts = (manifest.data.name, manifest.data.kind, manifest.data.classes, poisoned, attack, folder.resolve().name)
    return About(*facts, manifest.manifest_sha256, licence, about_parts(parts), __version__, ORDER[manifest.data.kind])


def _draw(manifest: Manifest, clean: Examples, poison: Poison, folder: Path, *, private: bool) -> None:
    """What the attack changed in the first row that it replaced, whose hash stands in the manifest."""
    wanted = manifest.trigger.difference_png_sha256
    if wanted is None:
        return
    first = manifest.replaced.index(True)
    content = difference_png(clean[poison.indices[first : first + 1]].inputs[0], poison.batch.inputs[first])
    if hashlib.sha256(content).hexdigest() == wanted:  # another release of Pillow may pack the same pixels otherwise
        write_private(folder / "trigger.png", content, private=private)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
