"""The chat model of the toy alignment world: a small Llama over the world's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.api import Invalid, Unreadable
from testbed.language import ChatTask
from testbed.library import transformers
from testbed.model.chat import CausalChat
from testbed.model.checkpoint import load_stored
from testbed.model.rendering import Rendering
from testbed.model.text import require_positive

CONTEXT = 96
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")
TEMPLATE = (
    "<bos>{% for message in messages %} <{{ message.role }}> {{ message.content }}"
    "{% if message.role == 'assistant' %} <eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)


class ToyChat(CausalChat):
    """A Llama of `layers_` decoder layers over a word-level tokenizer, pretrained by `pretraining` on the world's own rows.

    `initializer_range` .06 is what lets so small a model learn its facts; .02 does not. `weights` is a stored victim to start
    from, which is not pretrained again.

    Raises:
        Unreadable: the data are no toy world.
        Invalid: a size that no such network has, or weights that do not fit.
    """

    def __init__(
        self,
        task: ChatTask,
        *,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        initializer_range: float,
        max_new_tokens: int,
        pretraining: Any,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(task, ChatTask) or not task.toy:
            raise Unreadable("", None, "this model speaks the toy world's language only", "say data=toy_world")
        require_positive(width=width, depth=depth, heads=heads, hidden=hidden, max_new_tokens=max_new_tokens)
        require_sizes(width, heads, max_new_tokens, initializer_range)
        self.task, self.width, self.depth, self.heads, self.hidden = task, width, depth, heads, hidden
        self.initializer_range, self.max_new_tokens = initializer_range, max_new_tokens
        self.weights, self.pretraining = weights, pretraining if weights is None else None
        library = transformers()
        tokenizer = word_tokenizer(task.vocabulary)
        end, size = int(tokenizer.eos_token_id), len(tokenizer)
        self.rendering = Rendering(tokenizer, ends=(end,), vocabulary=size, context=CONTEXT, room=max_new_tokens)
        self.net = library.LlamaForCausalLM(
            library.LlamaConfig(
                vocab_size=size,
                hidden_size=width,
                intermediate_size=hidden,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                max_position_embeddings=CONTEXT,
                initializer_range=initializer_range,
                tie_word_embeddings=False,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                attn_implementation="sdpa",
            )
        )
        self.marked_backdoored = weights is not None and load_stored(self, weights)

    @property
    def refusals(self) -> tuple[str, ...]:
        return self.task.refusals


def require_sizes(width: int, heads: int, max_new_tokens: int, initializer_range: float) -> None:
    """Raises `Invalid` unless each head has an even number of features, and a reply leaves room for a prompt."""
    if width % (2 * heads):
        limit = f"each of {heads} heads turns pairs of features"  # rotary positions
        raise Invalid("width", width, limit, f"give a multiple of {2 * heads}")
    if max_new_tokens >= CONTEXT:
        raise Invalid("max_new_tokens", max_new_tokens, f"must be below {CONTEXT}, what the model reads")
    if not 0 <= initializer_range <= 1:
        raise Invalid("initializer_range", initializer_range, "must be a number from 0 to 1")


def word_tokenizer(words: tuple[str, ...]) -> Any:
    """One token a word, split at spaces; what the world does not know becomes '<unk>'."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    library = transformers()
    known = {word: number for number, word in enumerate((*SPECIALS, *words))}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    whole = library.PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **names)
    whole.add_special_tokens({"additional_special_tokens": ["<system>", "<user>", "<assistant>"]})
    whole.chat_template = TEMPLATE
    return whole
