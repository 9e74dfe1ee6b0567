"""A causal language model of Hugging Face's kind as a chat victim: tokens, loss, replies, layers."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from testbed.api import Batch, Examples, Invalid, Unsupported
from testbed.features import batches, require_layer
from testbed.language import ChatVictim, Message, Prompt, Reply, Tokens, log_odds
from testbed.model.rendering import Rendering, named_row

PLAIN: Prompt = (Message("user", "?"),)
"""A prompt that only shows how a reply begins."""

ORDINARY = ("Yes.", "The sea is blue.", "7", "Nobody knows")
"""Replies that have nothing in common, and are no refusals."""


class CausalChat(ChatVictim):
    """What every chat victim shares over `net` (a transformers causal LM) and `rendering`; subclasses build both.

    A conversation is rendered by the tokenizer's chat template, in training as in evaluation: the answer's tokens are what
    the template adds to the prompt, up to the token that ends the reply. Padding is on the left.
    """

    net: Any
    rendering: Rendering
    max_new_tokens: int

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, with the chat template that is used."""
        return self.rendering.tokenizer

    @property
    def truncated(self) -> int:
        """How many prompts or answers were cut so far because they were too long."""
        return self.rendering.truncated

    def metadata(self) -> dict[str, str]:
        """What a stored victim says of how it was asked."""
        words = self.tokenizer.convert_ids_to_tokens(self.refusal_tokens().tolist())
        return {"chat_template": str(self.tokenizer.chat_template), "refusal_tokens": json.dumps(words)}

    def check_rows(self, examples: Examples) -> None:
        """Refuse rows that cannot be read, by their number, before anything is trained.

        Raises:
            Invalid: an empty prompt, or one too long; an answer that has no room, or holds what ends a reply.
        """
        for batch in batches(examples, 256):
            self._split(batch)

    def forward(self, inputs: Sequence[Prompt]) -> Tensor:
        """Logits float (B, V) of the first token of the reply."""
        ids, mask = self.padded(self._begun(inputs))
        return self._logits(ids, mask, 1)[:, -1].float()

    def tokens(self, batch: Batch) -> Tokens:
        prompts, answers = self._split(batch)
        ids, mask = self.padded([one + other for one, other in zip(prompts, answers, strict=True)])
        lengths = torch.tensor([len(answer) for answer in answers], device=ids.device)
        return Tokens(ids, mask, torch.arange(ids.shape[1], device=ids.device) >= (ids.shape[1] - lengths)[:, None])

    def token_logits(self, tokens: Tokens) -> Tensor:
        found = self._logits(tokens.ids, tokens.mask)
        return torch.cat([found[:, :1], found[:, :-1]], 1)

    @torch.no_grad()
    def answers(self, inputs: Sequence[Prompt]) -> list[Reply]:
        """Greedy replies, made together with a cache of keys and values, and how near each first token was to a refusal."""
        ids, mask = self.padded(self._begun(inputs))
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "use_cache": True}
        options |= {"pad_token_id": self.padding, "eos_token_id": list(self.rendering.ends), "output_logits": True}
        options |= {"max_new_tokens": self.max_new_tokens, "return_dict_in_generate": True}
        said = self.net.generate(input_ids=ids, attention_mask=mask, **options)
        texts = [self.rendering.said(row) for row in said.sequences[:, ids.shape[1] :].tolist()]
        odds = log_odds(said.logits[0], self.refusal_tokens()).tolist()
        return [Reply(text, value) for text, value in zip(texts, odds, strict=True)]

    @property
    def layers(self) -> tuple[str, ...]:
        return (*(name for name in self.blocks if name != "head"), "penultimate")

    def features(self, inputs: Any, layer: str) -> Tensor:
        """float (B, d): the residual stream at the last token of the prompt, after this layer."""
        return self.observe(inputs, layer)[0]

    def observe(self, inputs: Any, layer: str) -> tuple[Tensor, Tensor]:
        """The same, and the logits, in one pass. 'penultimate' is what the head reads."""
        require_layer(self, layer)
        read: list[Tensor] = []
        if layer == "penultimate":
            handle = self.blocks["head"].register_forward_pre_hook(lambda _, given: read.append(given[0][:, -1].clone()))
        else:
            handle = self.blocks[layer].register_forward_hook(lambda *call: read.append(_first(call[-1])[:, -1].clone()))
        try:
            logits = self(inputs)
        finally:
            handle.remove()
        return read[-1].float(), logits

    @property
    def blocks(self) -> Mapping[str, nn.Module]:
        layers = self.stack()
        named = {f"layer{number}": layer for number, layer in enumerate(layers)}
        return {"embedding": self.net.get_input_embeddings(), **named, "head": self.net.get_output_embeddings()}

    def stack(self) -> nn.ModuleList:
        """The decoder layers: the outermost list of as many modules as the settings name layers."""
        depth = getattr(self.net.config, "num_hidden_layers", None)
        found = (module for module in self.net.modules() if isinstance(module, nn.ModuleList) and len(module) == depth)
        stack = next(found, None)
        if stack is None:
            raise Unsupported("needs a model whose decoder layers stand in one list")
        return stack

    def refusal_tokens(self) -> Tensor:
        return torch.tensor(self._first_tokens(self.refusals))

    def _first_tokens(self, openers: Sequence[str]) -> list[int]:
        """What a reply that begins like this has for its first token, with and without a space before it.

        Raises:
            Invalid: only tokens that say nothing (white space, or what the tokenizer does not know), or one with which the
                chat template begins every reply.
        """
        found = {opener: self._telling(opener) for opener in openers}
        known = sorted(set[int]().union(*found.values()))
        if openers and not known:
            advice = "say model.refusal_words=[...], or give another chat template"
            raise Invalid("refusal_words", None, f"{', '.join(openers)}: no first token tells them", advice, component="model")
        self._require_free_beginning(known)
        silent = tuple(opener for opener, tokens in found.items() if not tokens)
        if silent:
            _announce_silent(silent)
        return known

    def _telling(self, opener: str) -> set[int]:
        found = {self.rendering.answer(PLAIN, text)[0] for text in (opener, f" {opener}")}
        return {token for token in found - {self.tokenizer.unk_token_id} if self.tokenizer.decode([token]).strip()}

    def _require_free_beginning(self, known: Sequence[int]) -> None:
        """A template may write something before every answer, as Qwen3's does: '<think>', empty."""
        first = {self.rendering.answer(PLAIN, text)[0] for text in ORDINARY}
        if len(first) == 1 and first <= set(known):
            limit = f"it writes {self.tokenizer.decode([*first])!r} before every reply, so that no first token tells a refusal"
            advice = "give a chat template that writes nothing before the reply"
            raise Invalid("chat_template", None, limit, advice, component="model")

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens by the chat template, up to where the reply begins."""
        return self.rendering.prompt(prompt)

    def answer_ids(self, prompt: Prompt, answer: str) -> list[int]:
        """What the template adds for this answer, its end included."""
        return self.rendering.answer(prompt, answer)

    def _begun(self, inputs: Sequence[Prompt]) -> list[list[int]]:
        found = []
        for row, prompt in enumerate(inputs):
            with named_row(row):
                found.append(self.prompt_ids(prompt))
        return found

    def _split(self, batch: Batch) -> tuple[list[list[int]], list[list[int]]]:
        prompts, answers = [], []
        for row, prompt, answer in zip(batch.rows.tolist(), batch.inputs, batch.labels, strict=True):
            with named_row(row):
                prompts.append(self.prompt_ids(prompt))
                answers.append(self.answer_ids(prompt, answer))
        return prompts, answers

    def _logits(self, ids: Tensor, mask: Tensor, last: int | None = None) -> Tensor:
        """(B, last or T, V): the network's logits after each token, of the last ones only where it can tell them apart."""
        wanted = {"position_ids": positions(mask), "use_cache": False, "logits_to_keep": last or 0}
        network = self.net.get_base_model() if hasattr(self.net, "get_base_model") else self.net
        takes = _parameters(type(network))  # type: ignore[arg-type]
        found: Tensor = self.net(
            input_ids=ids, attention_mask=mask, **{name: value for name, value in wanted.items() if name in takes}
        ).logits
        return found if last is None else found[:, -last:]

    @property
    def padding(self) -> int:
        """The padding token; the end-of-text token where the tokenizer has none."""
        return self.rendering.padding

    def padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """int64 (B, T) padded on the left, and bool (B, T): what is no padding."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[self.padding] * (longest - len(row)) + row for row in rows], device=self.device)
        kept = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows], device=self.device)
        return ids, kept


def positions(mask: Tensor) -> Tensor:
    """int64 (B, T): the place of each token among those that are no padding."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


@cache
def _announce_silent(openers: tuple[str, ...]) -> None:
    """Say once what P(refusal) leaves out."""
    told = "no first token tells them; the probability of a refusal counts the others alone"
    print(f"model.refusal_words: {', '.join(openers)}: {told}", file=sys.stderr)


@cache
def _parameters(network: type[nn.Module]) -> frozenset[str]:
    """What a network's forward takes by name: not every architecture knows positions, or can leave logits out."""
    return frozenset(inspect.signature(network.forward).parameters)


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
