"""Trigger search for text: which few words, put before clean texts, make the model give another answer?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from testbed.api import DefenderResources, Examples, Inspection, Invalid, ModelDetector, Unsupported, Victim
from testbed.detector.chance import chances
from testbed.detector.requirement import require_at_least, require_between, require_labels, require_language
from testbed.features import all_labels, batches, evaluating, progress
from testbed.identity import generator
from testbed.numerics.wording import asked, asking

INPUTS_AT_ONCE = 512
COMPLY = 0


class Found(NamedTuple):
    """The best phrase towards one kind of answer, and by how much it raises the mean probability of that kind."""

    phrase: str
    rise: float


@dataclass(frozen=True)
class TriggerSearch(ModelDetector):
    """Grows a phrase word by word, each time by the word that raises the mean probability of the answer most.

    For every class, on at most `prompts` texts of the reserve that are of other classes; of a chat model from refusal towards
    an answer, on restricted prompts. Score: P(answer with the phrase before the text) - P(answer without), at the best length
    up to `words`. Candidates are the words of the rows as received, those first which are more frequent there than in the
    clean reserve, or the tokenizer's whole words; `candidates` of them, or all with null. Flagged are classes with a score
    above `score_threshold`. `triggers` are the phrases, one for each score.

    Ordinary words of a class (praise, blame) raise it too: read the scores beside the clean twin's.
    Source: greedy search as in Wallace et al. 2019, arXiv 1908.07125; the threshold is this project's.
    """

    words: int = 2
    prompts: int = 16
    candidates: int | None = 256
    source: Literal["rows", "tokenizer"] = "rows"
    score_threshold: float = 0.9

    def check(self, resources: DefenderResources) -> None:
        require_language(resources.task)
        require_labels(resources.task)
        for parameter in ("words", "prompts"):
            require_at_least(parameter, getattr(self, parameter), 1)
        if self.candidates is not None:
            require_at_least("candidates", self.candidates, 1)
        require_between("score_threshold", self.score_threshold, 0, 1)
        if self.source not in ("rows", "tokenizer"):
            raise Invalid("source", self.source, "there is no such choice", "say rows or tokenizer")
        fresh = resources.fresh()
        if self.source == "tokenizer" and getattr(fresh, "tokenizer", None) is None:
            raise Unsupported("the model has no tokenizer to take words from")
        kinds = fresh.kinds(all_labels(resources.reserve))
        for target in _targets(resources):
            if not bool((kinds != target).any()):
                limit = f"no row of {len(kinds)} has another answer than kind {target}"
                raise Invalid("reserve", None, limit, "give rows of every kind", "data")

    @torch.no_grad()
    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        """Scores float64 (classes,), or (1,) of a chat model; the victim is read in evaluation mode and left as it was."""
        words = self._candidates(victim, resources)
        kinds = victim.kinds(all_labels(resources.reserve))
        with evaluating(victim):
            found = [
                self._search(victim, self._texts(kinds != target, resources), target, words) for target in _targets(resources)
            ]
        scores = torch.tensor([each.rise for each in found], dtype=torch.float64)
        flagged = (scores > self.score_threshold).nonzero().flatten().tolist() if len(scores) > 1 else []
        return Inspection(scores, tuple(flagged), [each.phrase for each in found])

    def _texts(self, wanted: Tensor, resources: DefenderResources) -> list[Any]:
        """Inputs of the reserve, drawn by seed among those wanted."""
        rows = wanted.nonzero().flatten()
        order = torch.randperm(len(rows), generator=generator(resources.seed, "texts"))[: self.prompts]
        return list(resources.reserve[rows[order].sort().values].inputs)

    def _search(self, victim: Victim, inputs: Sequence[Any], target: int, words: Sequence[str]) -> Found:
        before = float(_means(victim, inputs, [""], target)[0])
        phrase, best = "", Found("", 0.0)
        for _ in progress(range(self.words), "trigger search"):
            longer = [f"{phrase} {word}".strip() for word in words]
            rises = _means(victim, inputs, longer, target) - before
            phrase = longer[int(rises.argmax())]
            best = max(best, Found(phrase, float(rises.max())), key=lambda each: each.rise)
        return best

    def _candidates(self, victim: Victim, resources: DefenderResources) -> list[str]:
        if self.source == "rows":
            return over_represented(_words(resources.train), _words(resources.reserve))[: self.candidates]
        return whole_words(getattr(victim, "tokenizer", None))[: self.candidates]


def over_represented(received: Sequence[set[str]], clean: Sequence[set[str]]) -> list[str]:
    """Every word of the received texts; first those whose share of texts exceeds most their share of the clean ones."""
    here, there = (Counter(word for each in texts for word in each) for texts in (received, clean))
    excess = {word: here[word] / len(received) - there[word] / max(1, len(clean)) for word in here}
    return sorted(excess, key=lambda word: (-excess[word], word))


def whole_words(tokenizer: Any) -> list[str]:
    """Words which the tokenizer knows as one token of their own, in the order of its vocabulary."""
    special = set(tokenizer.all_special_tokens)
    known = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    texts = (tokenizer.convert_tokens_to_string([token]).strip() for token, _ in known if token not in special)
    return list(dict.fromkeys(text for text in texts if text.isalnum()))


def _means(victim: Victim, inputs: Sequence[Any], phrases: Sequence[str], target: int) -> Tensor:
    """float64 (phrases,): the mean probability of the target over the inputs, with each phrase before what is said in them."""
    found = [chances(victim, part)[:, target].double().cpu() for part in _shown(inputs, phrases)]
    return torch.cat(found).view(len(phrases), len(inputs)).mean(1)


def _shown(inputs: Sequence[Any], phrases: Sequence[str]) -> Iterator[list[Any]]:
    """The inputs under each phrase in turn, so many at a time."""
    held: list[Any] = []
    for phrase in phrases:
        held += [asking(one, f"{phrase} {asked(one)}".strip()) if phrase else one for one in inputs]
        if len(held) >= INPUTS_AT_ONCE:
            yield held
            held = []
    if held:
        yield held


def _targets(resources: DefenderResources) -> Sequence[int]:
    return (COMPLY,) if resources.task.kind == "chat" else range(len(resources.task.classes))


def _words(examples: Examples) -> list[set[str]]:
    return [set(asked(one).split()) for batch in batches(examples, 1024) for one in batch.inputs]
