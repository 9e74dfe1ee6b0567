"""A judge's model in a folder of this machine: Hugging Face's layout, safetensors only, no code of its own."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    if _settings(path / "config.json").get("auto_map"):
        raise Invalid("path", path, "brings code of its own, which is not run", "choose another model", component="judge")


def _settings(file: Path) -> Mapping[str, Any]:
    """A file of settings; nothing where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise Invalid("path", file, f"is no JSON ({error})", "is the copy of the model whole?", "judge") from error
    if not isinstance(found, dict):
        raise Invalid("path", file, "is no JSON object", "is the copy of the model whole?", "judge")
    return found


def require_labels(path: Path, labels: Collection[str]) -> None:
    """Raises `Invalid` unless these are the labels of the classifier in the folder; its weights are not read.

    A configuration that names none has two, LABEL_0 and LABEL_1: transformers leaves its default out.
    """
    settings = _settings(path / "config.json")
    numbered = {str(number): f"LABEL_{number}" for number in range(settings.get("num_labels") or 2)}
    compare_labels((settings.get("id2label") or numbered).values(), labels)


def compare_labels(models: Iterable[str], labels: Collection[str]) -> None:
    """Raises `Invalid` unless each label of the model stands for an outcome, and no other does."""
    absent, surplus = sorted(set(models) - set(labels)), sorted(set(labels) - set(models))
    advice = " ".join(
        [*(f"+judge.labels.{label}=OUTCOME" for label in absent), *(f"~judge.labels.{label}" for label in surplus)]
    )
    if absent:
        raise Invalid("labels", list(labels), f"says nothing of the model's {', '.join(absent)}", f"say {advice}", "judge")
    if surplus:
        raise Invalid("labels", list(labels), f"the model has no {', '.join(surplus)}", f"say {advice}", "judge")


def require_chat_template(path: Path) -> None:
    """Raises `Invalid` where neither the tokenizer's settings nor a file beside them holds a chat template.

    Without such settings it cannot be told before the tokenizer is loaded.
    """
    settings = path / "tokenizer_config.json"
    beside = (path / "chat_template.jinja").is_file() or any((path / "additional_chat_templates").glob("*.jinja"))
    if settings.is_file() and not beside and not _settings(settings).get("chat_template"):
        raise no_chat_template()


def no_chat_template() -> Invalid:
    return Invalid("chat", True, "the model has no chat template", "say judge.chat=false", component="judge")


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
