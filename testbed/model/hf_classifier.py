"""A pretrained encoder of Hugging Face's kind as a classifier of texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from testbed.api import Invalid, Task
from testbed.model.checkpoint import Checkpoint, load_stored
from testbed.model.memory import Need, need_of, require_room_once
from testbed.model.text import TextVictim, masked_mean, require_finite_share


class HFClassifier(TextVictim):
    """An encoder with a linear head over the mean of its tokens ('mean'), or with its architecture's own head ('own').

    `path` is a folder, or with its `revision` (a commit) a name on the hub, fetched only if `download`. Of the encoder the
    top `trainable_layers` learn (null: all of it). Only safetensors are read, and no code that comes with a model is run. The
    library draws at random what a file lacks: tensors missing, unknown or of another shape are refused unless their names
    begin with one of `weights_allow`. A tokenizer without padding pads with its end of text. `weights` is a stored victim to
    start from.

    Raises:
        Unreadable: the data are no texts.
        Invalid: the model is not there or does not fit; a number is out of range.
        TooLarge: training needs more memory than is free, told before any weight is read.
    """

    # What `path` holds is what counts, wherever it came from.
    meaningless: ClassVar[tuple[str, ...]] = ("download", "revision", "check_memory")

    def __init__(
        self,
        task: Task,
        *,
        path: Path,
        revision: str | None = None,
        download: bool = False,
        pooling: Literal["mean", "own"] = "mean",
        trainable_layers: int | None = None,
        dropout: float = 0.1,
        max_length: int = 128,
        weights: Path | None = None,
        weights_allow: tuple[str, ...] = (),
        check_memory: bool = True,
    ) -> None:
        super().__init__(task, max_length=max_length)
        if pooling not in ("mean", "own"):
            raise Invalid("pooling", pooling, "there is no such choice", "choose from mean, own")
        require_finite_share("dropout", dropout)
        self.revision, self.download, self.pooling, self.check_memory = revision, download, pooling, check_memory
        self.trainable_layers, self.dropout, self.weights_allow = trainable_layers, dropout, tuple(weights_allow)
        self.weights = weights
        self.checkpoint = Checkpoint(Path(path), revision, download)
        self.checkpoint.check()
        self.path = self.checkpoint.folder
        self._prepare()

    def _prepare(self) -> None:
        classes, mean = len(self.task.classes), self.pooling == "mean"
        kind, settings = ("AutoModel", {}) if mean else (OWN, {"num_labels": classes})
        self.checkpoint.config()
        if self.check_memory:
            advice = "lower model.trainable_layers, or take a smaller model"
            require_room_once(lambda: self._need(kind, settings), f"model.path={self.checkpoint.path} in float32", advice)
        self.net = self.checkpoint.network(torch.float32, self.weights_allow, kind=kind, **settings)
        self.head = nn.Linear(self.net.config.hidden_size, classes) if mean else last_linear(self.net)
        self.drop = nn.Dropout(self.dropout)
        self._check_tokens()
        self._freeze(self.net)
        self.marked_backdoored = self.checkpoint.marked()
        if self.weights is not None:
            self.marked_backdoored |= load_stored(self, self.weights)

    def _freeze(self, net: nn.Module) -> None:
        freeze(net, stack(net), self.trainable_layers, unused=("pooler.",) if self.pooling == "mean" else ())

    def _need(self, kind: str, settings: dict[str, Any]) -> Need:
        network = self.checkpoint.outline(torch.float32, kind=kind, **settings)
        self._freeze(network)
        return need_of(network)

    def _check_tokens(self) -> None:
        most = getattr(self.net.config, "max_position_embeddings", None)
        if most is not None and self.max_length > most:
            raise Invalid("max_length", self.max_length, f"the model has {most} positions", f"at most {most}")
        special = self.tokenizer.num_special_tokens_to_add()
        if self.max_length <= special:
            raise Invalid("max_length", self.max_length, f"{special} tokens of the model's own stand about a text")
        rows, padding = self.net.get_input_embeddings().num_embeddings, self.tokenizer.pad_token_id
        if any(token >= rows and token != padding for token in self.tokenizer.get_vocab().values()):
            limit = f"the tokenizer has {len(self.tokenizer)} tokens and the model {rows}"
            raise Invalid("path", self.checkpoint.path, limit, "give a model with its own tokenizer")
        if padding >= rows:  # added to the tokenizer, and never to the model
            if self.tokenizer.eos_token is None or self.tokenizer.eos_token_id >= rows:
                limit = f"its padding is token {padding}, the model knows {rows}, and there is no end of text to pad with"
                raise Invalid("path", self.checkpoint.path, limit, "give a model with its own tokenizer")
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.net.config.pad_token_id = self.tokenizer.pad_token_id

    @property
    def tokenizer(self) -> Any:
        """The model's own, which is not copied with the victim."""
        return tokenizer_of(self.checkpoint)

    @property
    def layers(self) -> tuple[str, ...]:
        """'embedding', then 'layer0', 'layer1', ..., then what the final linear layer reads."""
        return ("embedding", *(f"layer{number}" for number in range(len(stack(self.net)))), "penultimate")

    def read(self, inputs: Sequence[str], layer: str) -> tuple[Tensor, Tensor]:
        """The mean over the tokens of what a layer gave, float (B, hidden); and the logits.

        Many texts are read some at a time, the short ones together: less is padded.
        """
        if self.training or len(inputs) <= AT_ONCE:
            return self._read(inputs, layer)
        order = torch.tensor([len(text) for text in inputs]).argsort(stable=True)
        parts = [self._read([inputs[place] for place in some.tolist()], layer) for some in order.split(AT_ONCE)]
        features, logits = (torch.cat(part)[order.argsort().to(self.device)] for part in zip(*parts, strict=True))
        return features, logits

    def _read(self, inputs: Sequence[str], layer: str) -> tuple[Tensor, Tensor]:
        tokens = self.tokens(inputs)
        mask = tokens["attention_mask"].bool()
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            said = self.net(**tokens, output_hidden_states=layer != "penultimate")
            logits = self.head(self.drop(masked_mean(said[0], mask))) if self.pooling == "mean" else said.logits
        finally:
            handle.remove()
        if layer == "penultimate":
            return (masked_mean(seen[-1], mask) if seen[-1].dim() == 3 else seen[-1]), logits
        return masked_mean(said.hidden_states[self.layers.index(layer)], mask), logits

    def tokens(self, inputs: Sequence[str]) -> dict[str, Tensor]:
        """What the network reads, padded to the longest text, on the victim's device."""
        options = {"padding": True, "truncation": True, "max_length": self.max_length, "return_tensors": "pt"}
        encoded = self.tokenizer(list(inputs), **options)
        if int(encoded["input_ids"].max()) >= self.net.get_input_embeddings().num_embeddings:  # its padding, written out
            limit = "a text holds a token that the tokenizer knows and the model does not"
            raise Invalid("path", self.checkpoint.path, limit, "give a model with its own tokenizer", component="model")
        self.count_cut(text for text, one in zip(inputs, encoded.encodings, strict=True) if one.overflowing)
        return {name: values.to(self.device) for name, values in encoded.items()}


OWN = "AutoModelForSequenceClassification"
AT_ONCE = 32
"""Texts that are read together when nothing is trained."""


@lru_cache(maxsize=4)
def tokenizer_of(checkpoint: Checkpoint) -> Any:
    """The tokenizer of a model, padding on the right.

    Raises:
        Invalid: there is none that tells what it cuts, or none that can pad.
    """
    tokenizer = checkpoint.tokenizer()
    if not tokenizer.is_fast:
        raise Invalid("path", checkpoint.path, "the tokenizer is not of the fast kind", "save it with its tokenizer.json")
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise Invalid("path", checkpoint.path, "the tokenizer has neither padding nor an end of text", "name its pad_token")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def stack(net: nn.Module) -> nn.ModuleList:
    """The layers of an encoder: the longest list of modules in it."""
    return max((module for module in net.modules() if isinstance(module, nn.ModuleList)), key=len, default=nn.ModuleList())


def last_linear(net: nn.Module) -> nn.Linear:
    """The layer that gives the logits."""
    return [module for module in net.modules() if isinstance(module, nn.Linear)][-1]


def freeze(net: nn.Module, layers: nn.ModuleList, trainable: int | None, *, unused: tuple[str, ...]) -> None:
    """Let only the top layers learn and what stands above them, and nothing that is unused.

    Raises:
        Invalid: there are not so many layers.
    """
    for name, value in net.named_parameters():
        value.requires_grad_(not name.startswith(unused))
    if trainable is None:
        return
    if not 0 <= trainable <= len(layers):
        raise Invalid("trainable_layers", trainable, f"the model has {len(layers)} layers", "null trains all of it")
    top = {id(value) for layer in layers[len(layers) - trainable :] for value in layer.parameters()}
    stacked = {id(value) for value in layers.parameters()}
    reached = False
    for value in net.parameters():  # in the order in which they act: embeddings, layers, what stands above them
        reached = reached or id(value) in stacked
        if id(value) not in top and (id(value) in stacked or not reached):
            value.requires_grad_(False)
