"""ONION: a word that does not belong makes a text unlikely, and without it the text reads better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Victim
from testbed.detector.reader import Perplexities, perplexities, require_folder
from testbed.detector.requirement import require_language, require_reserve
from testbed.features import batches, progress
from testbed.numerics.wording import asked

ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Onion(Detector):
    """Score `max_i s_i` over the words of a text, s_i = perplexity(text) - perplexity(text without word i).

    Of a conversation the text is what the user said last. The language model is that in the folder `path` (GPT-2 in the
    paper), or trigrams counted from the defender's clean rows, to which every word that these lack is an outlier. The paper
    removes words with s_i above a bar that is tuned on clean rows, and judges no row: there is no rule here.

    Source: Qi et al. 2021 (EMNLP), arXiv 2011.10369.
    """

    path: Path | None = None

    judges: ClassVar[frozenset[str]] = frozenset({"rows", "queries"})

    def check(self, resources: DefenderResources) -> None:
        require_language(resources.task)
        require_reserve(resources, 1)
        require_folder(self.path)

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,); 0 for a text without words."""
        reader, scores = perplexities(self.path, resources.reserve, victim.device), []
        for batch in progress(batches(examples, ROWS_AT_ONCE), "ONION", -(-len(examples) // ROWS_AT_ONCE)):
            words = suspicions([asked(one) for one in batch.inputs], reader)
            scores += [float(each.max()) if len(each) else 0.0 for each in words]
        return torch.tensor(scores, dtype=torch.float64)


def suspicions(texts: Sequence[str], reader: Perplexities) -> list[Tensor]:
    """float64 (words,) for each text: how much less perplexing it is without each of its words."""
    words = [text.split() for text in texts]
    without = [[" ".join([*row[:place], *row[place + 1 :]]) for place in range(len(row))] for row in words]
    found = reader([variant for row, shorter in zip(words, without, strict=True) for variant in (" ".join(row), *shorter)])
    parts = found.split([1 + len(row) for row in words])
    return [part[0] - part[1:] for part in parts]
