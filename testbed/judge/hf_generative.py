"""A causal language model of Hugging Face's kind as a judge: it is asked about a reply, and its answer is parsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from testbed.api import Invalid
from testbed.judge.local import encoded, loaded, no_chat_template, parts, require_chat_template, require_folder, specials
from testbed.judge.template import Speaking


@dataclass(frozen=True, kw_only=True)
class HfGenerative(Speaking):
    """The model in the folder `path` continues the template greedily by `max_new_tokens`; `chat` puts it as a user's turn.

    As HarmBench's classifier (Mazeika et al. 2024, arXiv 2402.04249) and Llama Guard (Inan et al. 2023, arXiv 2312.06674) work.
    """

    path: Path
    chat: bool
    max_new_tokens: int
    batch_size: int
    device: str | None

    meaningless: ClassVar[tuple[str, ...]] = ("batch_size", "device")

    def check(self, resources: Any) -> None:
        """Raises `Invalid`: no such model, or none that chats; a number, a template or verdicts that cannot work."""
        super().check(resources)
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise Invalid(name, getattr(self, name), "must be at least 1", component="judge")
        require_folder(self.path)
        if self.chat:
            require_chat_template(self.path)

    def specials(self) -> Sequence[str]:
        return specials(self._model[0])

    @torch.no_grad()
    def said(self, texts: Sequence[str]) -> list[str]:
        tokenizer, model = self._model
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "pad_token_id": tokenizer.pad_token_id}
        found: list[str] = []
        for part in parts([self._turn(text) for text in texts], self.batch_size):
            given = encoded(tokenizer, model, part, room=self.max_new_tokens, own=not self.chat)
            whole = model.generate(**given, **greedy, max_new_tokens=self.max_new_tokens)
            found += tokenizer.batch_decode(whole[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
        return found

    def _turn(self, text: str) -> str:
        if not self.chat:
            return text
        turns = [{"role": "user", "content": text}]
        return str(self._model[0].apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        """Loaded when it is first asked."""
        tokenizer, model = loaded("AutoModelForCausalLM", self.path, self.device)
        if self.chat and not tokenizer.chat_template:
            raise no_chat_template()
        tokenizer.padding_side = "left"
        return tokenizer, model
