"""A causal language model of Hugging Face's kind as a chat victim, fine-tuned whole or through low-rank adapters."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from testbed.api import Invalid, Task, Unreadable
from testbed.identity import arguments
from testbed.language import ChatTask, Tokens
from testbed.library import transformers
from testbed.model.adapter import adapter_state, with_adapters
from testbed.model.chat import CausalChat
from testbed.model.checkpoint import Checkpoint, load_stored
from testbed.model.memory import Need, need_of, require_room
from testbed.model.rendering import Rendering, ends_of

TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token or '' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For tokenizers that bring no chat template: 'User: ...', a line each, and the token that ends a text after a reply."""

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class HfChat(CausalChat):
    """The model at `path`: a folder, or with `revision` a name on the hub. Safetensors only; no code of its own is run.

    With `lora`, adapters of this `rank` are trained and nothing else. `dtype` is that of the weights. `chat_template` (a
    template, or a file that holds one) stands for the tokenizer's own; where there is neither, `TEMPLATE` is used. Prompts
    that leave no room for `max_new_tokens` are refused, or cut if `truncate`. `refusal_words` begin refusals where the data's
    do not say it well. `weights` is a stored victim to start from; `base` the same model before it was aligned.

    Raises:
        Invalid: anything of this that cannot be; Unreadable: the data are no conversations.
        TooLarge: training needs more memory than is free, told before any weight is read.
    """

    meaningless: ClassVar[tuple[str, ...]] = ("base", "check_memory", "download")  # `base` is another model

    def __init__(
        self,
        task: Task,
        *,
        path: Path,
        revision: str | None = None,
        download: bool = False,
        weights: Path | None = None,
        weights_allow: tuple[str, ...] = (),
        base: Path | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        lora: bool = False,
        rank: int = 8,
        alpha: float = 16,
        dropout: float = 0.0,
        target_modules: str | tuple[str, ...] = "all-linear",
        gradient_checkpointing: bool = False,
        chat_template: str | None = None,
        max_new_tokens: int = 64,
        truncate: bool = False,
        refusal_words: tuple[str, ...] | None = None,
        check_memory: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(task, ChatTask):
            raise Unreadable("", None, "this model reads conversations only", "say data=messages or data=toy_world", "model")
        self.task, self.path, self.revision, self.weights = task, Path(path), revision, weights
        self.weights_allow, self.base_path, self.dtype, self.lora = tuple(weights_allow), base, dtype, lora
        self.rank, self.alpha, self.dropout, self.target_modules = rank, alpha, dropout, target_modules
        self.gradient_checkpointing, self.chat_template = gradient_checkpointing, chat_template
        self.max_new_tokens, self.truncate, self.refusal_words = max_new_tokens, truncate, refusal_words
        self.check_memory, self.download = check_memory, download
        self.checkpoint = Checkpoint(self.path, revision, download)
        self._prepare()

    @property
    def refusals(self) -> tuple[str, ...]:
        return self.task.refusals

    def refusal_tokens(self) -> Tensor:
        if self.refusal_words is None:
            return super().refusal_tokens()
        return torch.tensor(self._first_tokens(self.refusal_words))

    def base(self) -> HfChat | None:
        """The model before it was aligned, asked in the same way, with adapters that add nothing; None where none is known."""
        if self.base_path is None:
            return None
        name, _, revision = str(self.base_path).partition("@")
        options = {**arguments(self), "path": Path(name), "revision": revision or None, "weights": None}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found = HfChat(**options, base=None, check_memory=False, download=self.download)
        if found.rendering.vocabulary < self.rendering.vocabulary:
            limit = "it knows fewer tokens than the model"
            raise Invalid("base", self.base_path, limit, "give the base of this model", component="model")
        found.rendering = self.rendering
        return found.to(self.device).eval()

    def token_losses(self, tokens: Tokens) -> Tensor:
        """As for every chat victim, without the logits of what nobody answers: the answers are the last tokens."""
        length = int(tokens.answer.sum(1).max())
        logits = self._logits(tokens.ids, tokens.mask, length + 1)[:, :-1].float()
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens.ids[:, -length:], reduction="none")
        within = torch.where(tokens.answer[:, -length:], each, torch.zeros_like(each))
        return torch.nn.functional.pad(within, (tokens.ids.shape[1] - length, 0))

    def stored_part(self) -> dict[str, Tensor]:
        """The adapters, where nothing else is trained and therefore nothing else stored; otherwise nothing."""
        return {f"net.{name}": value for name, value in adapter_state(self.net).items()} if self.lora else {}

    def metadata(self) -> dict[str, str]:
        return {**super().metadata(), "dtype": self.dtype, "lora": str(self.lora).lower()}

    def _prepare(self) -> None:
        self.checkpoint.check()
        config = self.checkpoint.config()
        if self.check_memory:
            _require_room(self._described(), lambda: self._need(config))
        network = self.checkpoint.network(TYPES[self.dtype], self.weights_allow)
        self.rendering = self._rendering(config, network)
        self.marked_backdoored = self.checkpoint.marked()
        self.net = self._dressed(network)
        if self.weights is not None:
            self.marked_backdoored |= load_stored(self, self.weights, adapters=self.lora)

    def _dressed(self, network: Any) -> Any:
        """With adapters, or else ready to be trained whole; greedy whatever the model's own settings of generation are."""
        ends, pad = list(self.rendering.ends), self.rendering.padding
        network.generation_config = transformers().GenerationConfig(eos_token_id=ends, pad_token_id=pad)
        if self.gradient_checkpointing:
            if not network.supports_gradient_checkpointing:
                raise Invalid("gradient_checkpointing", True, "this architecture cannot", "say false", component="model")
            old = network.gradient_checkpointing_enable  # its name before transformers 5.23
            getattr(network, "activation_checkpointing_enable", old)({"use_reentrant": False})
        if self.dtype == "bfloat16" and not self.lora:
            _warn_of_rounding()
        return self._adapted(network)

    def _adapted(self, network: Any) -> Any:
        if not self.lora:
            return network.requires_grad_()
        sizes = {"alpha": self.alpha, "dropout": self.dropout}
        return with_adapters(network, rank=self.rank, **sizes, target_modules=self.target_modules)

    def _rendering(self, config: Any, network: Any) -> Rendering:
        tokenizer, text = self.checkpoint.tokenizer(), config.get_text_config()
        tokenizer.chat_template = self._template() or tokenizer.chat_template or TEMPLATE
        context, size = getattr(text, "max_position_embeddings", None), network.get_input_embeddings().num_embeddings
        if self.max_new_tokens < 1 or (context is not None and self.max_new_tokens >= context):
            limit = f"must be at least 1{'' if context is None else f' and below {context}, what the model reads'}"
            raise Invalid("max_new_tokens", self.max_new_tokens, limit, component="model")
        ends = ends_of(tokenizer, text.eos_token_id, network.generation_config.eos_token_id)
        known = tuple(end for end in ends if end < size)
        room = self.max_new_tokens
        return Rendering(tokenizer, ends=known, vocabulary=size, context=context, room=room, truncate=self.truncate)

    def _template(self) -> str | None:
        given = self.chat_template
        if given is None or "{" in given:
            return given
        if not Path(given).expanduser().is_file():
            advice = "give a Jinja template, or a file that holds one"
            raise Invalid("chat_template", given, "is no template and no file", advice, component="model")
        return Path(given).expanduser().read_text(encoding="utf-8")

    def _need(self, config: Any) -> Need:
        with torch.device("meta"):
            network = self._adapted(transformers().AutoModelForCausalLM.from_config(config, dtype=TYPES[self.dtype]))
        return need_of(network)

    def _described(self) -> tuple[str, str]:
        """The model as a user named it, and what would make it smaller."""
        advice = [] if self.lora else ["model.lora=true"]
        advice += [] if self.dtype == "bfloat16" else ["model.dtype=bfloat16"]
        hint = f"say {' or '.join(advice)}, or take a smaller model" if advice else "take a smaller model"
        return f"model.path={self.path} in {self.dtype}{' with adapters' if self.lora else ''}", hint


_roomy: set[str] = set()


def _require_room(described: tuple[str, str], need: Any) -> None:
    """Once for each model: a run builds its victim several times, and then what is free is partly its own."""
    if described[0] not in _roomy:
        require_room(need(), *described)
        _roomy.add(described[0])


@cache
def _warn_of_rounding() -> None:
    """Say once that small steps are lost in bfloat16."""
    told = "weights of 8 bits of precision lose small steps; for full fine-tuning say trainer.precision=bf16-mixed instead"
    print(f"model.dtype=bfloat16: {told}", file=sys.stderr)
