"""A judge's model in a folder of this machine: Hugging Face's layout, safetensors only, no code of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from testbed.api import Invalid
from testbed.library import transformers


def require_folder(path: Path) -> None:
    """Raises `Invalid` where this is no folder of a model with weights as safetensors."""
    if not (path / "config.json").is_file():
        raise Invalid("path", path, "is no folder with a config.json", "give a model's own folder", component="judge")
    if not any(path.glob("*.safetensors")):
        advice = "convert it; pickled weights are not read"
        raise Invalid("path", path, "holds no *.safetensors", advice, component="judge")
    if json.loads((path / "config.json").read_text(encoding="utf-8")).get("auto_map"):
        raise Invalid("path", path, "brings code of its own, which is not run", "choose another model", component="judge")


def loaded(kind: str, path: Path, device: str | None) -> tuple[Any, Any]:
    """The tokenizer and the model (of transformers' class `kind`), in evaluation mode on the device.

    Raises:
        Invalid: no such folder, or transformers cannot read it.
    """
    require_folder(path)
    library = transformers()
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(path, **safe)
        model = getattr(library, kind).from_pretrained(path, use_safetensors=True, dtype="auto", **safe)
    except (OSError, ValueError, KeyError) as error:
        raise Invalid("path", path, " ".join(str(error).split())[:300], component="judge") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def specials(tokenizer: Any) -> tuple[str, ...]:
    """The texts that a tokenizer takes for something else than text."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return tuple(sorted({token for token in (*tokenizer.all_special_tokens, *added) if len(token) > 1}))


def encoded(tokenizer: Any, model: Any, texts: Sequence[str], *, room: int = 0, own: bool = True) -> Any:
    """Padded tokens on the model's device; with `own`, the tokenizer adds its special tokens.

    Raises:
        Invalid: a text is longer than the model reads, `room` tokens for the answer included.
    """
    found = tokenizer(list(texts), return_tensors="pt", padding=True, add_special_tokens=own)
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = int(found["attention_mask"].sum(1).max()) + room
    if limit is not None and longest > limit:
        told = f"a reply with its template is {longest} tokens long, and the judge reads {limit}"
        raise Invalid("characters", None, told, "say judge.characters=N to show it the first N of a reply", "judge")
    return {name: found[name].to(model.device) for name in ("input_ids", "attention_mask")}


def parts(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """So many at a time."""
    return (texts[start : start + size] for start in range(0, len(texts), size))
