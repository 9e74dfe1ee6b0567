"""What could be told without any detector: how long a text is, of how many tokens, and how unlikely its words are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from testbed.api import Batch, Examples, Victim
from testbed.features import batches
from testbed.language import ChatVictim
from testbed.numerics.word_model import WordModel
from testbed.numerics.wording import said, tokens, whole


def trivial_scores(queries: Examples, victim: Victim, clean: Examples) -> dict[str, Tensor]:
    """Float64 (n,) each: 'length' in words, 'tokens' in the victim's own, 'perplexity' by trigrams of the clean rows.

    A classifier without a tokenizer of its own reads words and signs.
    """
    rows = [text for batch in batches(clean, 1024) for text in said(batch.inputs, batch.labels)]
    reader = WordModel(rows)
    length, count, unlikely = [], [], []
    for batch in batches(queries, 256):
        texts = [whole(one) for one in batch.inputs]
        length += [len(text.split()) for text in texts]
        count += _token_counts(victim, batch, texts)
        unlikely.append(reader.perplexities(texts))
    empty = torch.zeros(0, dtype=torch.float64)
    found = {"length": torch.tensor(length).double(), "tokens": torch.tensor(count).double()}
    return {**found, "perplexity": torch.cat([empty, *unlikely])}


def _token_counts(victim: Victim, batch: Batch, texts: list[str]) -> list[int]:
    if isinstance(victim, ChatVictim):
        # an answer that is the same for all adds the same number to all
        asked = victim.tokens(Batch(batch.inputs, ["ok"] * len(texts), batch.rows))
        counts: list[int] = asked.mask.sum(1).tolist()
        return counts
    tokenizer: Any = getattr(victim, "tokenizer", None)
    return [len(tokens(text) if tokenizer is None else tokenizer(text)["input_ids"]) for text in texts]
