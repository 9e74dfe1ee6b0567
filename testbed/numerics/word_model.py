"""A language model of words, small enough to be counted from a few dozen clean texts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from testbed.numerics.wording import tokens

ORDER = 3
START, END, UNKNOWN = "<start>", "<end>", "<unknown>"


class WordModel:
    """Trigrams, each order interpolated with the one below it after Witten and Bell.

    P(w | h) = (c(h w) + t(h) P(w | h')) / (c(h) + t(h)), where c says how often, and t how many different words followed h,
    and h' is h without its first word; below single words lies 1 / (V + 1), for V known words (the end of a text is one) and
    whatever is unknown.

    Source: Witten and Bell 1991 (IEEE Transactions on Information Theory 37).
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.followers: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for text in texts:
            words = [*[START] * (ORDER - 1), *tokens(text), END]
            for place in range(ORDER - 1, len(words)):
                for size in range(ORDER):
                    self.followers[tuple(words[place - size : place])][words[place]] += 1
        self.totals = {history: counts.total() for history, counts in self.followers.items()}
        self.known = set(self.followers[()])

    def probability(self, word: str, history: Sequence[str]) -> float:
        """P(word | history), of a word that is known or `UNKNOWN`."""
        chance = 1 / (len(self.known) + 1)
        for size in range(min(len(history), ORDER - 1) + 1):
            before = tuple(history[len(history) - size :])
            total = self.totals.get(before, 0)
            if not total:
                break
            counts = self.followers[before]
            chance = (counts[word] + len(counts) * chance) / (total + len(counts))
        return chance

    def perplexity(self, text: str) -> float:
        """exp of the mean of -log P over the words of a text and its end."""
        words = [word if word in self.known else UNKNOWN for word in tokens(text)]
        history, loss = [START] * (ORDER - 1), 0.0
        for word in (*words, END):
            loss -= math.log(self.probability(word, history))
            history = [*history[1:], word]
        return math.exp(loss / (len(words) + 1))

    def perplexities(self, texts: Sequence[str]) -> Tensor:
        """float64 (n,)."""
        return torch.tensor([self.perplexity(text) for text in texts], dtype=torch.float64)
