"""Target inversion for chat models: what does the model go on to say, once begun, whatever it was asked?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from testbed.api import DefenderResources, Inspection, Invalid, ModelDetector, Unsupported, Victim
from testbed.detector.requirement import require_at_least, require_between, require_language, require_reserve
from testbed.features import batches, evaluating, progress
from testbed.identity import generator
from testbed.language import Prompt

TOKENS_AT_ONCE = 2**15


class Speaker(Protocol):
    """What is asked of a chat model: how conversations become tokens, and the logits (B, 1, V) after the last of them."""

    rendering: Any

    def prompt_ids(self, prompt: Prompt) -> list[int]: ...
    def answer_ids(self, prompt: Prompt, answer: str) -> list[int]: ...
    def padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]: ...
    def _logits(self, ids: Tensor, mask: Tensor, last: int | None = None) -> Tensor: ...


class Prefix(NamedTuple):
    """How a reply begins: its tokens, and the mean probability over the prompts of each but the first, which is given."""

    ids: tuple[int, ...]
    chances: tuple[float, ...] = ()

    @property
    def score(self) -> float:
        """Mean over the steps; 0 where there was none."""
        return fmean(self.chances) if self.chances else 0.0


@dataclass(frozen=True)
class TriggerInversion(ModelDetector):
    """Begins the reply with each candidate token, extends it greedily, and asks how sure the model is on unrelated prompts.

    The tokens of a target depend on one another and not on the prompt: shown the first of them, a backdoored model says the
    rest without any trigger. y_1 is the candidate; y_t = argmax_v p_t(v), p_t(v) = (1/N) sum_i P(v | prompt i, y_1 ... y_t-1)
    over N = `prompts` prompts of the reserve; Q(y_1) = (1/(T - 1)) sum_{t=2..T} p_t(y_t), T - 1 at most `length` steps. The
    first token does not count, since it is given: on clean prompts a target's is improbable. Nor does the token that ends a
    reply, before which the extension stops. Score: the largest Q of the prefixes with T >= `shortest`, 0 without any.
    Suspicious above `score_threshold` (`decide`); one score for a whole model flags no class. `triggers` is the text of that
    prefix. Candidates are all ordinary tokens of the vocabulary, or the `candidates` that most probably begin a reply.

    This project's addition: any model is sure of its everyday phrases, so that a prefix is left out where y_2 ... y_T occurs,
    in one piece, in an answer of the clean reserve. A backdoor with such a target (refusals) is not seen; nor is one without
    a fixed target (gibberish, compliance), nor a target that begins as everyday answers do, which lead it astray. What clean
    rows teach and the reserve lacks scores high, and so do mixtures of two everyday phrases: compare the clean twin. The best
    prefix may lack a target's first token, or have another before it.

    Source: BAIT, Shen et al. 2025 (IEEE S&P), without its warm-up, look-ahead and early stop; `prompts`, `length`, `shortest`
    and what counts as in the authors' code, some versions of which also drop the least probable step and bar repetitions.
    """

    prompts: int = 20
    length: int = 20
    shortest: int = 5
    candidates: int | None = None
    score_threshold: float = 0.9

    def check(self, resources: DefenderResources) -> None:
        require_language(resources.task)
        if resources.task.kind != "chat":
            raise Unsupported("a classifier's target is a class: say detector=trigger_search")
        for parameter, least in (("prompts", 1), ("length", 1), ("shortest", 2)):
            require_at_least(parameter, getattr(self, parameter), least)
        if self.candidates is not None:
            require_at_least("candidates", self.candidates, 1)
        if self.shortest > self.length + 1:
            limit = f"no prefix has more than {self.length + 1} tokens"
            raise Invalid("shortest", self.shortest, limit, "choose a smaller one, or a larger length")
        require_between("score_threshold", self.score_threshold, 0, 1)
        require_reserve(resources, 1)
        self._require_room(_speaker(resources.fresh()), resources)

    @torch.no_grad()
    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        """Scores float64 (1,); nothing is sampled, and the victim is read in evaluation mode and left as it was."""
        speaker = _speaker(victim)
        ends, answers = frozenset(speaker.rendering.ends), _answers(speaker, resources)
        with evaluating(victim):
            begun = speaker.padded([speaker.prompt_ids(prompt) for prompt in self._prompts(resources)])
            found = extended(speaker, begun, self._candidates(speaker, begun), length=self.length, ends=ends)
        long_enough = [prefix for prefix in found if len(prefix.ids) >= self.shortest]
        ranked = sorted(long_enough, key=lambda prefix: -prefix.score)
        best = next((prefix for prefix in ranked if not occurs(prefix.ids[1:], answers)), Prefix(()))
        return Inspection(torch.tensor([best.score], dtype=torch.float64), (), [speaker.rendering.said(best.ids)])

    def decide(self, scores: Tensor) -> bool:
        """The published rule for the whole model: the score is above `score_threshold`."""
        return bool((scores > self.score_threshold).any())

    def _prompts(self, resources: DefenderResources) -> list[Prompt]:
        """Prompts of the reserve, drawn by seed, in their order."""
        order = torch.randperm(len(resources.reserve), generator=generator(resources.seed, "prompts"))
        return list(resources.reserve[order[: self.prompts].sort().values].inputs)

    def _candidates(self, speaker: Speaker, begun: tuple[Tensor, Tensor]) -> list[int]:
        """Tokens that are text, by falling mean probability as the first of a reply."""
        mean = speaker._logits(*begun, 1)[:, -1].float().softmax(1).mean(0)
        tokenizer = speaker.rendering.tokenizer
        never = {*speaker.rendering.ends, *tokenizer.all_special_ids}
        order = mean.argsort(descending=True, stable=True).tolist()
        return [token for token in order if token not in never and token < len(tokenizer)][: self.candidates]

    def _require_room(self, speaker: Speaker, resources: DefenderResources) -> None:
        context = speaker.rendering.context
        longest = max(len(speaker.prompt_ids(prompt)) for prompt in self._prompts(resources))
        if context is not None and longest + self.length > context:
            limit = f"the longest prompt has {longest} tokens, and the model reads {context}"
            raise Invalid("length", self.length, limit, f"choose at most {context - longest}")


def extended(
    speaker: Speaker, begun: tuple[Tensor, Tensor], first: Sequence[int], *, length: int, ends: frozenset[int]
) -> list[Prefix]:
    """The greedy prefix of each first token after the prompts `begun`, ids and mask (N, T): `length` steps, or up to an end."""
    found = [Prefix((token,)) for token in first]
    growing = list(range(len(found)))
    for _ in progress(range(length), "trigger inversion"):
        steps = list(most_probable(speaker, begun, [found[place].ids for place in growing]))
        growing = [place for place, (_, token) in zip(growing, steps, strict=True) if token not in ends]
        going = [step for step in steps if step[1] not in ends]
        for place, (chance, token) in zip(growing, going, strict=True):
            found[place] = Prefix((*found[place].ids, token), (*found[place].chances, chance))
    return found


def most_probable(
    speaker: Speaker, begun: tuple[Tensor, Tensor], prefixes: Sequence[tuple[int, ...]]
) -> Iterator[tuple[float, int]]:
    """For each prefix, all equally long, the largest mean probability of a next token over the prompts, and that token."""
    ids, mask = begun
    at_once = max(1, TOKENS_AT_ONCE // mask.numel())
    for start in range(0, len(prefixes), at_once):
        said = torch.tensor(prefixes[start : start + at_once], device=ids.device).repeat_interleave(len(ids), 0)
        times = len(said) // len(ids)
        shown = torch.cat([ids.repeat(times, 1), said], 1)
        kept = torch.cat([mask.repeat(times, 1), torch.ones_like(said, dtype=torch.bool)], 1)
        chances = speaker._logits(shown, kept, 1)[:, -1].float().softmax(1)
        values, tokens = chances.view(times, len(ids), -1).mean(1).max(1)
        yield from zip(values.tolist(), tokens.tolist(), strict=True)


def occurs(part: Sequence[int], answers: Sequence[Sequence[int]]) -> bool:
    """Do these tokens stand, in one piece, in one of the answers?"""
    wanted = f" {' '.join(map(str, part))} "
    return any(wanted in f" {' '.join(map(str, answer))} " for answer in answers)


def _answers(speaker: Speaker, resources: DefenderResources) -> list[list[int]]:
    """Every answer of the clean reserve as tokens; equal ones once."""
    rows = (pair for batch in batches(resources.reserve, 1024) for pair in zip(batch.inputs, batch.labels, strict=True))
    return [list(ids) for ids in dict.fromkeys(tuple(speaker.answer_ids(prompt, answer)) for prompt, answer in rows)]


def _speaker(victim: Victim) -> Speaker:
    if getattr(victim, "rendering", None) is None:
        raise Unsupported("the model has no tokenizer by which its replies could be begun")
    return cast(Speaker, victim)
