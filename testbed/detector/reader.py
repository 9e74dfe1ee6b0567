"""How unlikely a text is: by a model counted from the defender's clean rows, or by a causal language model of the user's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from testbed.api import Examples, Invalid
from testbed.features import batches
from testbed.library import transformers
from testbed.numerics.word_model import WordModel
from testbed.numerics.wording import said

TEXTS_AT_ONCE = 32
Perplexities = Callable[[Sequence[str]], Tensor]
"""texts -> float64 (n,)."""


def require_folder(path: Path | None) -> None:
    """Raises `Invalid` where `path` is no folder of a language model as Hugging Face stores it, in safetensors."""
    if path is None:
        return
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        advice = "give a folder with config.json, tokenizer files and *.safetensors, or null"
        raise Invalid("path", path, "is no folder of a language model", advice)
    if json.loads((path / "config.json").read_text(encoding="utf-8")).get("auto_map"):
        raise Invalid("path", path, "brings code of its own, which is not run", "choose another model")


def counted(clean: Examples) -> Perplexities:
    """Perplexities by a `WordModel` of these rows, answers included."""
    return WordModel(texts(clean)).perplexities


def texts(examples: Examples) -> list[str]:
    """Rows as texts, conversations with their answers."""
    return [text for batch in batches(examples, 1024) for text in said(batch.inputs, batch.labels)]


def perplexities(path: Path | None, clean: Examples, device: torch.device) -> Perplexities:
    """By the model in the folder; where there is none, by one counted from the clean rows."""
    return counted(clean) if path is None else FolderReader(path, device)


class FolderReader:
    """exp of the mean of -log P over the tokens of a text, by a causal language model in a folder.

    The beginning and the end of a text are tokens where the tokenizer has them; what is longer than the model reads is cut.
    A text with nothing to predict is as unlikely as any: the perplexity is the size of the vocabulary.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        library, safe = transformers(), {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer: Any = library.AutoTokenizer.from_pretrained(path, **safe)
            self.model: Any = library.AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, dtype="auto", **safe)
        except (OSError, ValueError, KeyError) as error:
            raise Invalid("path", path, " ".join(str(error).split())[:300], component="detector") from error
        self.model = self.model.to(device).eval()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        parts = (texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE))
        return torch.cat([self._read([self._ids(text) for text in part]) for part in parts])

    def _ids(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        begin, end = ([] if token is None else [token] for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id))
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return [*begin, *ids, *end][:limit]

    @torch.no_grad()
    def _read(self, rows: Sequence[list[int]]) -> Tensor:
        """Padded on the right, where a causal model cannot see it; padding is predicted by nobody."""
        longest = max(2, *map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.model.device)
        mask = torch.arange(longest, device=ids.device) < torch.tensor([[len(row)] for row in rows], device=ids.device)
        logits = self.model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1].double()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        predicted = mask[:, 1:]
        total, count = (losses * predicted).sum(1), predicted.sum(1)
        found = (total / count.clamp(min=1)).exp()
        return torch.where(count > 0, found, float(logits.shape[-1])).cpu()
