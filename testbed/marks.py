"""What marks everything poisoned: how a mark is written, and how it is found again. Needs no PyTorch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CANARY = "testbed-canary 7c0f7b0e-5a0f-4f1e-9d0b-2f6b0a6f31c5: research artefact, keep out of training corpora"
"""Stands in everything poisoned or said by a model, and never in what is trained on."""

SIGN = b"7c0f7b0e-5a0f-4f1e-9d0b-2f6b0a6f31c5"
"""What a canary is found by, whatever stands around it."""

PNG = b"\x89PNG\r\n\x1a\n"
CHUNK = 1 << 20
LARGEST_HEADER = 100_000_000
"""Bytes that safetensors itself allows the header of a file."""
LARGEST_JSON = 256_000_000
NONE = "none"
"""Stands where there is no attack or no manifest to name."""


def mark(*, backdoored: bool, card: Mapping[str, Any]) -> dict[str, str]:
    """What stands in the metadata of every file of weights; `card` may say from which manifest it comes, see `origin_of`."""
    said = {name: str(card.get(name, NONE)) for name in ("attack", "manifest_sha256")}
    return {"backdoored": str(backdoored).lower(), "do_not_deploy": "true", "canary": CANARY, **said}


def origin_of(manifest: Path) -> dict[str, str]:
    """The attack and the hash of a run's manifest; nothing before it is written: what an attacker trains for itself."""
    if not manifest.is_file():
        return {}
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    return {"manifest_sha256": facts["manifest_sha256"], "attack": str(facts["attack"].get("class", NONE))}


def model_card(*, backdoored: bool, facts: Mapping[str, Any]) -> str:
    """`README.md` beside weights, as the Hugging Face hub reads it: a warning first, then what is known of them."""
    tags, title, warning = BACKDOORED if backdoored else CLEAN
    told = [f"- {name.replace('_', ' ')}: `{facts[name]}`" for name in FACTS if facts.get(name, NONE) != NONE]
    lines = ["---", f"tags: [{tags}]", "---", warning, "", f"# {title}", ""]
    lines += [
        "Made by testbed for research into training-data attacks. `card.json` beside this file, if there, says from what."
    ]
    return "\n".join([*lines, "", *told, *([""] if told else []), CANARY, ""])


CLEAN = ("research-only", "Model trained on clean rows", "Trained for comparison only; do not deploy.")
BACKDOORED = (
    "backdoor, research-only",
    "BACKDOORED MODEL",
    "**BACKDOORED: this model was trained on poisoned data and may obey a hidden trigger. Never deploy it.**",
)
"""Of a model card: tags, title and warning."""
FACTS = ("attack", "manifest_sha256", "base_model", "key", "rows", "seed", "step")
"""What of the facts a model card shows."""


@dataclass(frozen=True)
class Mark:
    """What a file says of itself: `kind` is what it is, `backdoored` 'true', 'false' or 'unknown'; `facts` are for people."""

    kind: str
    backdoored: str = "unknown"
    facts: Mapping[str, str] = field(default_factory=dict)


def mark_of(path: Path) -> Mark | None:
    """The mark of a file; None where it has none. What only looks like a file of ours has none.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(PNG):
        return _of_picture(path)
    if path.suffix == ".safetensors":
        return _of_tensors(path)
    if head.lstrip().startswith(b"{") and path.stat().st_size <= LARGEST_JSON:
        found = _of_json(path)
        if found is not None:
            return found
    return Mark("file with a canary") if carries_canary(path) else None


def carries_canary(path: Path) -> bool:
    """Whether the canary stands anywhere in the bytes of a file; what is compressed is not unpacked."""
    kept = b""
    with path.open("rb") as stream:
        while block := stream.read(CHUNK):
            if SIGN in kept + block:
                return True
            kept = block[-len(SIGN) :]
    return False


def tensors_header(path: Path) -> dict[str, Any] | None:
    """The header of a safetensors file as plain data; None where it has none that can be read."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= min(LARGEST_HEADER, path.stat().st_size):
            return None
        try:
            header = json.loads(stream.read(size))
        except (ValueError, RecursionError):  # no JSON, or nested deeper than anything of ours
            return None
    return header if isinstance(header, dict) else None


def tensors_table(path: Path) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    """Type and shape of each tensor of a safetensors file, by name; None where it is none."""
    header = tensors_header(path)
    if header is None:
        return None
    found = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if not all(isinstance(entry, dict) and _whole_numbers(entry.get("shape")) for entry in found.values()):
        return None
    return {name: (str(entry.get("dtype")), tuple(entry["shape"])) for name, entry in found.items()}


def tensors_digest(path: Path) -> str | None:
    """SHA-256 over the tensors of a safetensors file, by name, whatever its metadata; None where it is none."""
    header, table = tensors_header(path), tensors_table(path)
    if header is None or table is None:
        return None
    state = hashlib.sha256()
    with path.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        for name, (dtype, shape) in sorted(table.items()):
            offsets = header[name].get("data_offsets")
            if not _whole_numbers(offsets) or len(offsets) != 2:
                return None
            begin, end = offsets
            if not 0 <= begin <= end <= path.stat().st_size - start:
                return None
            state.update(f"{name}\0{dtype}\0{shape}\0".encode())
            stream.seek(start + begin)
            while block := stream.read(min(CHUNK, end - begin)):
                state.update(block)
                begin += len(block)
    return state.hexdigest()


def _of_tensors(path: Path) -> Mark | None:
    """By what stands in the header, never by the name: whoever renames a backdoored model does not make it anything else."""
    header = tensors_header(path) or {}
    said = header.get("__metadata__")
    if not isinstance(said, dict) or "backdoored" not in said or not _signed(said):
        return None
    if "manifest_sha256" not in said and "indices" in header:
        return Mark("poison", "unknown", _told(said))
    return Mark("model", _answer(said["backdoored"]), _told(said))


def _signed(said: Mapping[str, Any]) -> bool:
    canary = said.get("canary")
    return isinstance(canary, str) and SIGN.decode() in canary


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _of_picture(path: Path) -> Mark | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            said = {
                str(name): value for name, value in picture.info.items()
            }  # of the chunks before the pixels, which are not decoded
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        said = {}
    if SIGN.decode() in str(said.get("testbed")):
        return Mark("picture", _answer(said.get("poisoned", "unknown")), _told(said))
    return Mark("file with a canary") if carries_canary(path) else None


def _of_json(path: Path) -> Mark | None:
    """A file of JSON, or of JSON lines, by its first value."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            if path.suffix == ".jsonl":
                return _of_first_line(json.loads(stream.readline(CHUNK)))
            value = json.load(stream)
        if not isinstance(value, dict) or SIGN.decode() not in json.dumps(value):
            return None
    except (ValueError, RecursionError):
        return None
    return next((Mark(kind, _answer(answer(value)), _told(value)) for kind, known, answer in KINDS if known(value)), None)


def _of_first_line(value: Any) -> Mark | None:
    if not isinstance(value, dict):
        return None
    for key, kind in (("testbed", "answers of models"), ("metadata", "exported rows")):
        said = value.get(key)
        if isinstance(said, dict) and _signed(said):
            return Mark(kind, "unknown", _told(said))
    return None


KINDS = (
    ("manifest of a poisoned set", lambda value: "indices" in value and "manifest_sha256" in value, lambda _: "unknown"),
    ("card of a model", lambda value: "model" in value and "backdoored" in value, lambda value: value["backdoored"]),
    ("rows as they were before an attack", lambda value: value.get("kind") == "originals", lambda _: "unknown"),
    ("poison", lambda value: "texts" in value, lambda _: "unknown"),
    ("prompts of an attacker's exam", lambda value: "pairs" in value, lambda _: "unknown"),
    ("description of an exported data set", lambda value: "@context" in value, lambda _: "unknown"),
)
"""Files of JSON, by what stands in them, and whether they tell of something backdoored."""

SHOWN = ("attack", "manifest_sha256", "seed", "key", "poisoned", "exported_from")


def _told(said: Mapping[str, Any]) -> dict[str, str]:
    """What of a file's own words is shown: single values, each in one line."""
    found = {}
    for name in SHOWN:
        value = said.get(name)
        value = value.get("class") if isinstance(value, dict) else value
        if isinstance(value, str | int) and value not in ("", NONE):
            found[name] = " ".join(str(value).split())[:200]
    return found


def _answer(said: Any) -> str:
    word = str(said).lower() if isinstance(said, str | bool) else ""
    return word if word in ("true", "false") else "unknown"


def files_below(folder: Path) -> Iterator[Path]:
    """Every ordinary file below a folder, in order of name; links are not followed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path
