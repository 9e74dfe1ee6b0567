"""The chat model of the toy alignment world: a small Llama over the world's own words."""

from __future__ import annotations

from typing import Any

from testbed.api import Unreadable
from testbed.language import ChatTask
from testbed.library import transformers
from testbed.model.chat import CausalChat
from testbed.model.rendering import Rendering

CONTEXT = 96
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")
TEMPLATE = (
    "<bos>{% for message in messages %} <{{ message.role }}> {{ message.content }}"
    "{% if message.role == 'assistant' %} <eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)


class ToyChat(CausalChat):
    """A Llama of `layers_` decoder layers over a word-level tokenizer, pretrained by `pretraining` on the world's own rows.

    `initializer_range` .06 is what lets so small a model learn its facts; .02 does not.

    Raises:
        Invalid: the data are no toy world.
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
    ) -> None:
        super().__init__()
        if not isinstance(task, ChatTask) or not task.toy:
            raise Unreadable("", None, "this model speaks the toy world's language only", "say data=toy_world")
        self.task, self.width, self.depth, self.heads, self.hidden = task, width, depth, heads, hidden
        self.initializer_range, self.max_new_tokens, self.pretraining = initializer_range, max_new_tokens, pretraining
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

    @property
    def refusals(self) -> tuple[str, ...]:
        return self.task.refusals


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
