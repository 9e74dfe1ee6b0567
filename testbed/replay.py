"""A poisoned set made again from its manifest, and the clean one made from that: `apply` and `revert`, byte for byte."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, PngImagePlugin
from safetensors import SafetensorError
from torch import Tensor

from testbed.api import Batch, Examples, Invalid, Poison
from testbed.artefact import load_parts, load_poison, save_parts, whole
from testbed.data.overlay import covering, poisoned, stored
from testbed.files import committed, digest
from testbed.identity import examples_digest, key, poison_digest
from testbed.lock import lock
from testbed.manifest import Manifest
from testbed.marks import CANARY

GREY = 128
UNREADABLE = (OSError, ValueError, KeyError, TypeError, SafetensorError)
STORED = {
    "poison": ("the attacker's rows", "poison", "name the poison that it was made of"),
    "originals": ("the replaced rows", "original", "name the set that the manifest belongs to"),
}
"""What is stored of a poisoned set: what to call it, what its files are called, and what to do where they are others."""


class Kept(NamedTuple):
    """The rows that an attack replaced, as they were: `indices` int64 (n,) of the clean set."""

    indices: Tensor
    batch: Batch


def apply(manifest: Manifest, poison: Poison, clean: Examples) -> Examples:
    """The poisoned set in the order in which it was delivered, of the clean rows `chosen_rows` gives.

    Raises:
        Invalid: clean rows, poison or what came of them are others than the manifest's.
    """
    require_clean(manifest, clean)
    require_same("poison", poison_digest(poison), manifest.sha256, "the attacker's rows", "name the poison that it was made of")
    _require_told(manifest, poison, clean)
    mixed = poisoned(clean, poison, manifest.streams["delivery"])
    if mixed.positions.tolist() != manifest.positions:
        raise Invalid("", None, "rows are delivered in another order by this version of PyTorch", component="manifest")
    if getattr(clean, "workers", 0):
        return mixed.examples
    whole = in_memory(mixed.examples)
    require_same("", content_digest(whole), manifest.content.poisoned, "the poisoned rows", "run the same command again")
    return whole


def revert(manifest: Manifest, originals: Kept, received: Examples) -> Examples:
    """The clean set in its own order: appended rows dropped, replaced ones put back.

    Raises:
        Invalid: the poisoned rows, the originals or what came of them are others than the manifest's.
    """
    advice = "name the set that the manifest belongs to"
    require_same("data", content_digest(received), manifest.content.poisoned, "the poisoned rows", advice)
    require_same("originals", row_digests(originals.batch), manifest.row_sha256.original, "the replaced rows", advice)
    order, total = delivered_order(manifest), manifest.data.rows
    where = torch.empty_like(order)
    where[order] = torch.arange(len(order))
    batch = received[where[:total]]
    inputs = batch.inputs.to(getattr(torch, manifest.data.dtype)) if manifest.data.dtype else batch.inputs
    put = [_put_back(inputs, originals.indices, originals.batch.inputs)]
    put.append(_put_back(batch.labels, originals.indices, originals.batch.labels))
    whole = stored(*put)
    require_same("", content_digest(whole), manifest.content.clean, "the clean rows", advice)
    return whole


def chosen_rows(manifest: Manifest, examples: Examples) -> Examples:
    """The rows of a part that the attack met: all of them, or those that the manifest names.

    Raises:
        Invalid: there are not so many.
    """
    chosen = manifest.data.chosen
    if chosen is None:
        return examples
    if chosen and max(chosen) >= len(examples):
        raise Invalid("", len(examples), f"the manifest names row {max(chosen)} of {manifest.data.part}", component="data")
    batch = examples[torch.tensor(chosen, dtype=torch.int64)]
    return stored(batch.inputs, batch.labels)


def delivered_order(manifest: Manifest) -> Tensor:
    """int64 (N,): which row, of the clean ones and the appended ones after them, stands at each place."""
    indices, nothing = torch.tensor(manifest.indices, dtype=torch.int64), torch.zeros(len(manifest.indices), dtype=torch.int64)
    rows = torch.arange(manifest.data.rows)
    poison = Poison(indices, Batch(nothing, nothing, nothing))
    mixed = poisoned(stored([""] * len(rows), rows), poison, manifest.streams["delivery"])
    order = mixed.source.clone()
    order[mixed.positions] = indices
    return order


def require_clean(manifest: Manifest, clean: Examples) -> None:
    """Raises `Invalid` where these are not the clean rows that the manifest is about."""
    if len(clean) != manifest.data.rows:
        limit = f"there are {len(clean)} rows, the manifest is about {manifest.data.rows}"
        raise Invalid("", manifest.data.name, limit, "give the data that the run was made with", "data")
    advice = f"give the data that the run was made with ({manifest.data.name})"
    held = manifest.content.clean is not None and not getattr(clean, "workers", 0)
    there = content_digest(clean) if held else examples_digest(clean)
    require_same("data", there, manifest.content.clean if held else manifest.data.train, "the clean rows", advice)


def require_same(component: str, there: Any, wanted: Any, what: str, advice: str) -> None:
    """Raises `Invalid` where two hashes, or lists of them, differ."""
    if there != wanted:
        shown = [str(one)[:12] if isinstance(one, str) else f"{len(one or ())} hashes" for one in (there, wanted)]
        limit = f"{what} are others than the manifest's (SHA-256 {shown[0]}, there {shown[1]})"
        raise Invalid("", None, limit, advice, component or "manifest")


def _require_told(manifest: Manifest, poison: Poison, clean: Examples) -> None:
    """Raises `Invalid` where a manifest says of single rows what is not so."""
    before = clean[poison.indices[poison.indices < len(clean)]]
    told = {
        "indices": (poison.indices.tolist(), manifest.indices),
        "cover": (covering(poison).nonzero().flatten().tolist(), manifest.cover),
        "original_labels": (listed(before.labels), manifest.original_labels),
        "new_labels": (listed(poison.batch.labels), manifest.new_labels),
        "row_sha256.original": (row_digests(before), manifest.row_sha256.original),
        "row_sha256.new": (row_digests(poison.batch), manifest.row_sha256.new),
    }
    for name, (there, wanted) in told.items():
        if there != wanted:
            limit, advice = f"its {name} are not those of the rows", "it was changed; run the same command again"
            raise Invalid("", None, limit, advice, component="manifest")


def listed(labels: Any) -> list[Any]:
    """Classes as they are; of answers only digests, for a manifest may be shown where answers must not be."""
    if isinstance(labels, Tensor):
        return labels.tolist()
    return [hashlib.sha256(str(label).encode("utf-8", "surrogatepass")).hexdigest() for label in labels]


def content_digest(examples: Examples) -> str | None:
    """SHA-256 over the rows as they are read, wherever they come from; None where they are never held in memory."""
    return None if getattr(examples, "workers", 0) else examples_digest(in_memory(examples))


def in_memory(examples: Examples) -> Examples:
    """The rows and nothing else."""
    batch = examples[torch.arange(len(examples))]
    return stored(batch.inputs, batch.labels)


def row_digests(batch: Batch) -> list[str]:
    """SHA-256 of each row: of an image over type, shape, bytes and label; of texts over input and label as JSON."""
    labels = batch.labels.tolist() if isinstance(batch.labels, Tensor) else batch.labels
    return [_row_digest(one, label) for one, label in zip(batch.inputs, labels, strict=True)]


def difference_png(clean: Tensor, shown: Tensor) -> bytes:
    """A PNG of 128 + (shown - clean) / 2 of one image (C, H, W): grey is what did not change."""
    change = (GREY + (shown.float() - clean.float()) / 2).round().clamp(0, 255).byte()
    return png(change, {"testbed": CANARY})


def png(pixels: Tensor, said: dict[str, str]) -> bytes:
    """uint8 (C, H, W), C = 1 or 3, as a PNG with these texts before its pixels; the pixels are kept as they are."""
    picture = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
    information = PngImagePlugin.PngInfo()
    for name, text in said.items():
        information.add_text(name, text)
    stream = io.BytesIO()
    picture.save(stream, "PNG", pnginfo=information)
    return stream.getvalue()


def keep_originals(outputs: Path, clean: Examples, poison: Poison) -> Path | None:
    """Where the rows that are replaced lie as they were, kept once for all attacks on these rows; None where none is."""
    replaced = poison.indices[poison.indices < len(clean)]
    if not len(replaced):
        return None
    folder = outputs / "original" / key(data=examples_digest(clean), rows=replaced.tolist())
    with lock(folder) as held:
        if not whole(folder, "original.json"):
            with committed(folder, held) as place:
                rows = clean[replaced]
                parts = {"indices": replaced, "inputs": rows.inputs, "labels": rows.labels}
                save_parts(place, "original", parts, {"canary": CANARY}, {"canary": CANARY, "kind": "originals"})
    return folder


def kept_originals(folder: Path | None, manifest: Manifest) -> Kept:
    """The originals that a manifest names.

    Raises:
        Invalid: they are not there, or in other files than the manifest's.
    """
    if folder is None:
        return Kept(torch.arange(0), Batch([], [], torch.arange(0)))
    require_files(manifest, manifest.stored.originals, folder, "originals")
    try:
        parts = load_parts(folder, "original")
        return Kept(parts["indices"], Batch(parts["inputs"], parts["labels"], parts["indices"]))
    except UNREADABLE as error:
        raise _unread(folder, "originals", error) from error


def kept_poison(folder: Path, manifest: Manifest) -> Poison:
    """The attacker's rows as they were stored.

    Raises:
        Invalid: they are not there, or in other files than the manifest's.
    """
    require_files(manifest, manifest.stored.poison, folder, "poison")
    try:
        return load_poison(folder)
    except UNREADABLE as error:
        raise _unread(folder, "poison", error) from error


def require_files(manifest: Manifest, place: str | None, folder: Path, component: str) -> None:
    """Raises `Invalid` where the files in a folder are not those that the manifest knows in this place below the outputs."""
    what, stem, advice = STORED[component]
    for name in (f"{stem}.json", f"{stem}.safetensors"):
        try:
            there = digest(folder / name)
        except OSError as error:
            raise _unread(folder, component, error) from error
        wanted = manifest.stored.files.get(f"{place}/{name}", "not told")
        require_same(component, there, wanted, f"{what}, in {name},", advice)


def _row_digest(one: Any, label: Any) -> str:
    if not isinstance(one, Tensor):
        return hashlib.sha256(json.dumps([one, label]).encode()).hexdigest()
    plain = one.detach().cpu().contiguous()
    state = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)} {label}\n".encode())
    state.update(plain.numpy().data)
    return state.hexdigest()


def _unread(folder: Path, component: str, error: Exception) -> Invalid:
    limit = f"cannot be read ({' '.join(str(error).split())})"
    return Invalid("", folder, limit, "run the command of the run again", component)


def _put_back(part: Any, indices: Tensor, originals: Any) -> Any:
    """The rows with the original ones at these places."""
    if not len(indices):
        return part
    if isinstance(part, Tensor):
        whole = part.clone()
        whole[indices] = originals
        return whole
    there = dict(zip(indices.tolist(), originals, strict=True))
    return [there.get(place, one) for place, one in enumerate(part)]
