"""A causal language model of Hugging Face's kind as a chat victim, fine-tuned whole or through low-rank adapters."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from testbed.api import Invalid, Task, Unreadable
from testbed.identity import arguments, folder_digest
from testbed.language import ChatTask, Tokens
from testbed.library import transformers
from testbed.model.adapter import adapter_state, with_adapters
from testbed.model.chat import CausalChat
from testbed.model.checkpoint import Checkpoint, load_stored
from testbed.model.memory import Need, need_of, require_room_once
from testbed.model.rendering import Rendering, ends_of, one_template

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

    # `base` is another model, and what `path` holds is what counts, wherever it came from.
    meaningless: ClassVar[tuple[str, ...]] = ("base", "check_memory", "download", "revision")

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
        self.task, self.revision, self.weights = task, revision, weights
        self.weights_allow, self.base_path, self.dtype, self.lora = tuple(weights_allow), base, dtype, lora
        self.rank, self.alpha, self.dropout, self.target_modules = rank, alpha, dropout, target_modules
        self.gradient_checkpointing, self.chat_template = gradient_checkpointing, chat_template
        self.max_new_tokens, self.truncate, self.refusal_words = max_new_tokens, truncate, refusal_words
        self.check_memory, self.download = check_memory, download
        self.checkpoint = Checkpoint(Path(path), revision, download)
        self.checkpoint.check()
        self.path = self.checkpoint.folder
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
        checkpoint = self._base_checkpoint()
        if checkpoint is None:
            return None
        options = {**arguments(self), "path": checkpoint.folder, "weights": None}
        options |= {"chat_template": str(self.tokenizer.chat_template)}
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                found = HfChat(**options, base=None, check_memory=False)
        except Invalid as error:
            raise Invalid("base", self.base_path, error.limit, error.advice, component="model") from error
        found.rendering = self.rendering
        return found.to(self.device).eval()

    def _base_checkpoint(self) -> Checkpoint | None:
        if self.base_path is None:
            return None
        name, _, revision = str(self.base_path).partition("@")
        if Path(self.base_path).expanduser().is_dir():  # a folder's name may have an '@' in it
            name, revision = str(self.base_path), ""
        return Checkpoint(Path(name), revision or None, self.download, parameter="base")

    def _check_base(self, config: Any) -> None:
        """What is wrong with the base is told now: it is read only once the model is trained."""
        checkpoint = self._base_checkpoint()
        if checkpoint is None:
            return
        checkpoint.check()
        checkpoint.require_causal()
        limit = ""
        if checkpoint.config().get_text_config().vocab_size < config.get_text_config().vocab_size:
            limit = "it knows fewer tokens than the model"
        elif not any(checkpoint.folder.glob("*.safetensors")):
            limit = "there are no .safetensors in it"
        if limit:
            raise Invalid("base", self.base_path, limit, "give the base of this model", component="model")

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
        """Adapters say as well for which model they are, and how they are added to it."""
        found = {**super().metadata(), "dtype": self.dtype, "lora": str(self.lora).lower()}
        if not self.lora:
            return found
        modules = self.target_modules if isinstance(self.target_modules, str) else sorted(self.target_modules)
        sizes = {"rank": str(self.rank), "alpha": f"{self.alpha:g}", "target_modules": json.dumps(modules)}
        return {**found, **sizes, "base_model": folder_digest(self.path)}

    def _prepare(self) -> None:
        if self.dtype not in TYPES:
            raise Invalid("dtype", self.dtype, "there is no such choice", f"choose from {', '.join(TYPES)}", "model")
        _require_words(self.refusal_words)
        self.checkpoint.require_causal()
        config = self.checkpoint.config()
        self._check_base(config)
        if self.check_memory:
            require_room_once(self._need, *self._described())
        network = self.checkpoint.network(TYPES[self.dtype], self.weights_allow)
        self.rendering = self._rendering(config, network)
        self.refusal_tokens()  # whatever is wrong with them is told now
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
        tokenizer.chat_template = self._template() or one_template(tokenizer.chat_template) or TEMPLATE
        context, size = getattr(text, "max_position_embeddings", None), network.get_input_embeddings().num_embeddings
        if self.max_new_tokens < 1 or (context is not None and self.max_new_tokens >= context):
            limit = f"must be at least 1{'' if context is None else f' and below {context}, what the model reads'}"
            raise Invalid("max_new_tokens", self.max_new_tokens, limit, component="model")
        ends = ends_of(tokenizer, text.eos_token_id, network.generation_config.eos_token_id, vocabulary=size)
        room = self.max_new_tokens
        return Rendering(tokenizer, ends=ends, vocabulary=size, context=context, room=room, truncate=self.truncate)

    def _template(self) -> str | None:
        given = self.chat_template
        if given is None or "{" in given:
            return given
        try:
            return Path(given).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            advice = "give a Jinja template, or a file that holds one"
            raise Invalid("chat_template", given, "is no template and no file of text", advice, component="model") from error

    def _need(self) -> Need:
        network = self.checkpoint.outline(TYPES[self.dtype])
        with torch.device("meta"):
            return need_of(self._adapted(network))

    def _described(self) -> tuple[str, str]:
        """The model as a user named it, and what would make it smaller."""
        advice = [] if self.lora else ["model.lora=true"]
        advice += [] if self.dtype == "bfloat16" else ["model.dtype=bfloat16"]
        hint = f"say {' or '.join(advice)}, or take a smaller model" if advice else "take a smaller model"
        return f"model.path={self.checkpoint.path} in {self.dtype}{' with adapters' if self.lora else ''}", hint


def _require_words(words: tuple[str, ...] | None) -> None:
    """Refuse no words at all, or one word that would be read letter by letter."""
    if words is None:
        return
    if isinstance(words, str) or not words or not all(word.strip() for word in words):
        limit = "must be a list of at least one word, none of them empty"
        raise Invalid("refusal_words", words or [], limit, "null takes the data's own", component="model")


@cache
def _warn_of_rounding() -> None:
    """Say once that small steps are lost in bfloat16."""
    told = "weights of 8 bits of precision lose small steps; for full fine-tuning say trainer.precision=bf16-mixed instead"
    print(f"model.dtype=bfloat16: {told}", file=sys.stderr)
