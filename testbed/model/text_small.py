"""A small classifier of texts, trained from scratch: hashed words and pieces of words, one convolution over them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor, nn

from testbed.api import Task
from testbed.model.checkpoint import load_stored
from testbed.model.text import TextVictim, masked_mean, padded, require_finite_share, require_positive

TOKEN = re.compile(r"\w+|[^\w\s]")
"""Words, and every other sign by itself, so that nothing but white space vanishes: neither case nor a sign of no width."""

PIECES = (3, 4)
"""Letters in a piece of a word; its beginning and its end are marked."""

NOTHING = 0
"""Stands for no word: behind the last one of a shorter text, and alone in an empty one."""


class TextSmall(TextVictim):
    """Word vectors E[word] + mean of P[pieces], a convolution over `kernel` words, its maximum and mean, a linear head.

    Words and pieces are hashed (CRC-32) into `buckets` each: the vocabulary is the same whatever rows are trained on. A word
    counts with its case, its pieces without. `weights` is a stored victim to start from. Source: Kim 2014, arXiv 1408.5882;
    Bojanowski et al. 2016, arXiv 1607.04606.

    Raises:
        Unreadable: the data are no texts.
        Invalid: a number is out of range, or the weights do not fit.
    """

    def __init__(
        self,
        task: Task,
        *,
        buckets: int = 8192,
        width: int = 64,
        channels: int = 96,
        kernel: int = 3,
        dropout: float = 0.3,
        max_length: int = 512,
        weights: Path | None = None,
    ) -> None:
        super().__init__(task, max_length=max_length)
        require_positive(buckets=buckets, width=width, channels=channels, kernel=kernel)
        require_finite_share("dropout", dropout)
        self.buckets, self.width, self.channels, self.kernel, self.dropout = buckets, width, channels, kernel, dropout
        self.words = nn.Embedding(buckets + 1, width, padding_idx=NOTHING)
        self.pieces = nn.EmbeddingBag(buckets + 1, width, mode="mean", padding_idx=NOTHING)
        with torch.no_grad():
            for table in (self.words, self.pieces):
                table.weight[1:].mul_(width**-0.5)
        self.convolution = nn.Conv1d(width, channels, kernel, padding="same")
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(2 * channels, len(task.classes))
        self.weights = weights
        self.marked_backdoored = weights is not None and load_stored(self, weights)

    @property
    def layers(self) -> tuple[str, ...]:
        return ("embedding", "convolution", "penultimate")

    def read(self, inputs: Sequence[str], layer: str) -> tuple[Tensor, Tensor]:
        """'embedding' (B, width), 'convolution' (B, channels) or 'penultimate' (B, 2 channels); and the logits."""
        tokens, mask = self.tokens(inputs)
        vectors = self.vectors(tokens)
        convolved = self.convolution(self.drop(vectors).transpose(1, 2)).relu().transpose(1, 2)
        mean = masked_mean(convolved, mask)
        largest = convolved.masked_fill(~mask[..., None], 0).amax(1)  # 0 is the least that ReLU gives
        penultimate = torch.cat([largest, mean], 1)
        layers = {"embedding": masked_mean(vectors, mask), "convolution": mean, "penultimate": penultimate}
        return layers[layer], self.head(self.drop(penultimate))

    def tokens(self, inputs: Sequence[str]) -> tuple[list[list[str]], Tensor]:
        """The words of each text, and bool (B, longest): where there are any; an empty text has one that is nothing."""
        whole = [TOKEN.findall(text) or [""] for text in inputs]
        self.count_cut(text for text, row in zip(inputs, whole, strict=True) if len(row) > self.max_length)
        rows = [row[: self.max_length] for row in whole]
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        return rows, torch.arange(int(lengths.max()), device=self.device) < lengths[:, None]

    def vectors(self, tokens: Sequence[Sequence[str]]) -> Tensor:
        """float (B, T, width), 0 behind a text's end. Each different word is looked up once."""
        known = {word: place for place, word in enumerate(dict.fromkeys(word for row in tokens for word in row), start=1)}
        numbers = [hashed(word, self.buckets) for word in known]
        words = self.words(torch.tensor([word for word, _ in numbers], device=self.device))
        table = words + self.pieces(padded([pieces for _, pieces in numbers], NOTHING, self.device))
        table = torch.cat([torch.zeros_like(table[:1]), table])
        return table[padded([[known[word] for word in row] for row in tokens], 0, self.device)]


@lru_cache(maxsize=200_000)
def hashed(word: str, buckets: int) -> tuple[int, tuple[int, ...]]:
    """The bucket of a word and those of its pieces, in 1..buckets; no word has none."""
    if not word:
        return NOTHING, (NOTHING,)
    marked = f"<{word.lower()}>"
    pieces = {marked[start : start + size] for size in PIECES for start in range(max(1, len(marked) - size + 1))}
    return _bucket(word, buckets), tuple(sorted(_bucket(piece, buckets) for piece in pieces))


def _bucket(text: str, buckets: int) -> int:
    return 1 + crc32(text.encode("utf-8", "surrogatepass")) % buckets
