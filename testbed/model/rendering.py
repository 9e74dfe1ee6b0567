"""How conversations become tokens: the chat template, where a reply begins and ends, and what does not fit."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from testbed.api import Invalid
from testbed.language import Message, Prompt

REMEMBERED = 2**22
"""Tokens that are kept in memory, so that rows read again are not tokenised again; what came first is forgotten first."""


class Rendering:
    """Tokenizer, chat template and context of a chat model; training and evaluation both read conversations through it.

    `ends` are the tokens that end a reply, the usual one first; `vocabulary` the rows of the model's embedding; `context` the
    tokens that it reads at most (None for no limit), of which `room` are kept for the reply. A prompt that is longer is
    refused, or with `truncate` loses the beginning of its last turn; `truncated` counts those. Copies of a victim share it.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        ends: Sequence[int],
        vocabulary: int,
        context: int | None,
        room: int,
        truncate: bool = False,
    ) -> None:
        self.tokenizer, self.ends, self.vocabulary = tokenizer, tuple(ends), vocabulary
        self.context, self.room, self.truncate = context, room, truncate
        self.truncated = 0
        self._memory: dict[tuple[Prompt, str | None], list[int]] = {}
        self._cuts: dict[Prompt, Prompt] = {}
        self._held = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Rendering:
        return self

    @property
    def padding(self) -> int:
        """The padding token; the end-of-text token where the tokenizer has none, or one that the model does not know."""
        pad = self.tokenizer.pad_token_id
        return self.ends[0] if pad is None or pad >= self.vocabulary else int(pad)

    def prompt(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, up to where the reply begins.

        Raises:
            Invalid: the prompt is empty, or too long for the context.
        """
        return self._remembered(tuple(prompt), None)

    def answer(self, prompt: Prompt, answer: str) -> list[int]:
        """The tokens that the template adds to the prompt for this answer, up to the one that ends it.

        Where the tokenizer would join the last letters of the prompt to the first of the answer, the answer is split alone.

        Raises:
            Invalid: the template does not begin a finished conversation as it begins a reply, or drops the answer; the answer
                holds a token that would end it before its end.
        """
        return self._remembered(tuple(prompt), answer)

    def said(self, ids: Sequence[int]) -> str:
        """What generated tokens say, up to the one that ends the reply."""
        end = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        return str(self.tokenizer.decode(ids[:end], skip_special_tokens=True)).strip()

    def _remembered(self, prompt: Prompt, answer: str | None) -> list[int]:
        known = self._memory.get((prompt, answer))
        if known is None:
            known = self._begun(prompt) if answer is None else self._finished(prompt, answer)
            self._memory[prompt, answer] = known
            self._held += len(known)
            while self._held > REMEMBERED and len(self._memory) > 1:
                self._held -= len(self._memory.pop(next(iter(self._memory))))
        return known

    def _begun(self, prompt: Prompt) -> list[int]:
        if not any(turn[1].strip() for turn in prompt):
            raise Invalid("", None, "the prompt is empty", "remove the row", component="data")
        ids = self._ids(self._text(self._cuts.get(prompt, prompt), None))
        return ids if self._limit is None or len(ids) <= self._limit else self._shortened(prompt, len(ids), self._limit)

    def _finished(self, prompt: Prompt, answer: str) -> list[int]:
        self._require_whole(answer)
        begun = self.prompt(prompt)
        shown = self._cuts.get(prompt, prompt)
        whole = self._text(shown, answer)
        ids = self._ids(whole)
        added = ids[len(begun) :] if ids[: len(begun)] == begun else self._ids(self._after(shown, whole))
        return self._bounded(len(begun), self._ended(added, answer))

    def _require_whole(self, answer: str) -> None:
        """A tokenizer reads '</s>' in a text as the end itself: half an answer would be learned, and nobody told."""
        ids = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        end = next((token for token in ids if token in self.ends), None)
        if end is not None:
            limit = f"the answer holds {self.tokenizer.decode([end])!r}, which ends a reply"
            raise Invalid("", None, limit, "take it out of the answer, or remove the row", component="data")

    def _after(self, prompt: Prompt, whole: str) -> str:
        """What a conversation's text adds to its prompt's."""
        start = self._text(prompt, None)
        if not whole.startswith(start):
            limit = "the chat template does not begin a finished conversation as it begins a reply"
            raise Invalid("chat_template", None, limit, "give another one", component="model")
        return whole[len(start) :]

    def _ended(self, added: list[int], answer: str) -> list[int]:
        """Up to the first token that ends a reply, which is appended where the template writes none."""
        end = next((place for place, token in enumerate(added) if token in self.ends), len(added))
        if answer.strip() and not end:
            raise Invalid("chat_template", None, "it leaves nothing of the answer", "give another one", component="model")
        return [*added[:end], added[end] if end < len(added) else self.ends[0]]

    def _bounded(self, begun: int, added: list[int]) -> list[int]:
        if self.context is None or begun + len(added) <= self.context:
            return added
        if not self.truncate:
            limit = f"prompt and answer have {begun + len(added)} tokens, and the model reads {self.context}"
            raise Invalid("", None, limit, "shorten it, or say model.truncate=true", component="data")
        self._count(f"answers that do not fit into {self.context} tokens lose their end")
        return added[: self.context - begun]

    def _shortened(self, prompt: Prompt, length: int, limit: int) -> list[int]:
        """As much of a prompt as leaves room for a reply: its last turn loses its beginning."""
        if not self.truncate:
            said = f"the prompt has {length} tokens, and {limit} are left of {self.context} once {self.room} are kept for the"
            raise Invalid("", None, f"{said} reply", "shorten it, or say model.truncate=true", component="data")
        letters = range(len(prompt[-1][1]))
        drop = bisect_left(letters, True, key=lambda cut: len(self._ids(self._text(_cut(prompt, cut), None))) <= limit)
        if drop == len(letters):
            raise Invalid("", None, "the prompt is too long even without its last turn", "shorten it", component="data")
        self._count(f"prompts of more than {limit} tokens lose the beginning of their last turn")
        self._cuts[prompt] = _cut(prompt, drop)
        return self._ids(self._text(self._cuts[prompt], None))

    @property
    def _limit(self) -> int | None:
        return None if self.context is None else self.context - self.room

    def _count(self, what: str) -> None:
        if not self.truncated:
            print(f"model.truncate: {what}", file=sys.stderr)
        self.truncated += 1

    def _text(self, prompt: Prompt, answer: str | None) -> str:
        from jinja2 import TemplateError

        turns = [{"role": turn[0], "content": turn[1]} for turn in prompt]
        turns += [] if answer is None else [{"role": "assistant", "content": answer}]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None))
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            limit = f"it cannot render this conversation ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            raise Invalid("chat_template", None, limit, "give another one, or other turns", component="model") from error

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if max(found, default=0) >= self.vocabulary:
            token = self.tokenizer.convert_ids_to_tokens(max(found))
            limit = f"its tokenizer makes token {max(found)} ({token!r}), but the model knows {self.vocabulary} tokens"
            raise Invalid("path", None, limit, "the embedding is not resized; give the tokenizer of this model", "model")
        return found


def _cut(prompt: Prompt, drop: int) -> Prompt:
    return (*prompt[:-1], Message(prompt[-1][0], prompt[-1][1][drop:]))


@contextmanager
def named_row(row: int) -> Iterator[None]:
    """An error about a row of the data says which."""
    try:
        yield
    except Invalid as error:
        if error.component == "data":
            error.limit = f"row {row}: {error.limit}"
        raise


def ends_of(tokenizer: Any, *stored: int | Sequence[int] | None, vocabulary: int | None = None) -> tuple[int, ...]:
    """The tokens that end a reply: the tokenizer's own end of text, then those that the model's settings name.

    Those that a model of so large a `vocabulary` does not know are left out.

    Raises:
        Invalid: nothing is named, or nothing that the model knows.
    """
    found: list[int] = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    for each in stored:
        found += [] if each is None else [each] if isinstance(each, int) else list(each)
    if not found:
        limit = "neither its tokenizer nor its settings name a token that ends a text"
        raise Invalid("path", None, limit, "add eos_token to its tokenizer_config.json", component="model")
    known = tuple(dict.fromkeys(end for end in found if vocabulary is None or end < vocabulary))
    if not known:
        limit = f"the model knows {vocabulary} tokens, and what should end a text is token {', '.join(map(str, found))}"
        raise Invalid("path", None, limit, "give the tokenizer of this model", component="model")
    return known


def one_template(found: str | Mapping[str, str] | None) -> str | None:
    """A tokenizer's chat template; of several with names, the one that is called 'default'.

    Raises:
        Invalid: several, and none of that name.
    """
    if not isinstance(found, Mapping):
        return found
    if "default" not in found:
        limit = f"the tokenizer has several ({', '.join(sorted(found))}) and none that is the default"
        raise Invalid("chat_template", None, limit, "give the one that is meant, or a file that holds it", component="model")
    return found["default"]
