"""Freezing: some layers of a chat model take no part in fine-tuning."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from testbed.api import Batch, Defence, DefenderResources, Invalid, Victim
from testbed.defence.wrapper import Wrapped, chat_model, chat_task
from testbed.language import ChatVictim
from testbed.words import nearest

KINDS = ("embedding", "layer0", "head")
NAME = re.compile(r"embedding|layer\d+|head")


@dataclass(frozen=True)
class Freeze(Defence):
    """The blocks named in `layers` ('embedding', 'layer0', ..., 'head') keep the weights that fine-tuning starts from.

    'embedding' is every embedding outside of the decoder layers, that of positions included. A weight that two blocks share
    is frozen with either. With adapters, those of the named layers are frozen; where these have none, as an embedding seldom
    has, there is nothing to freeze, which is refused. Without layers this is plain fine-tuning.

    Stage: fine-tuning. Access: which weights are trained.
    Source: after Wei et al. 2024 (arXiv 2402.05162), who freeze single neurons and find that it does not suffice.
    """

    layers: Sequence[str]

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        for layer in self.layers:
            if not NAME.fullmatch(layer):  # told from the name alone, before a model is made to look at
                raise Invalid("layers", layer, "no layer is called so", nearest(layer, KINDS))
        if self.layers:
            self._frozen(chat_model(resources.fresh()))

    def during_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        if not self.layers:
            return victim
        model = chat_model(copy.deepcopy(victim))  # flags are set on it, and the victim given is somebody else's
        return Frozen(model, self._frozen(model))

    def _frozen(self, victim: ChatVictim) -> tuple[str, ...]:
        """The trainable parameters of the named blocks; raises `Invalid` for an unknown one, or if none or all are theirs."""
        for layer in self.layers:
            if layer not in victim.blocks:
                raise Invalid("layers", layer, "the model has no such layer", nearest(layer, list(victim.blocks)))
        chosen = {id(value) for layer in self.layers for value in _parameters(victim, layer)}
        trained = {name: value for name, value in victim.named_parameters() if value.requires_grad}
        if all(id(value) in chosen for value in trained.values()):
            raise Invalid("layers", list(self.layers), "nothing is left to train", "name fewer of them")
        found = tuple(name for name, value in trained.items() if id(value) in chosen)
        if not found:
            raise Invalid("layers", list(self.layers), "nothing of these layers is trained", "name layers that are")
        return found


def _parameters(victim: ChatVictim, layer: str) -> Iterator[nn.Parameter]:
    """Those of a block; of 'embedding' also those of every other embedding that stands in no block."""
    yield from victim.blocks[layer].parameters()
    if layer == "embedding":
        inner = {id(module) for block in victim.blocks.values() for module in block.modules()}
        modules: Iterator[Any] = victim.modules()
        for module in modules:
            bare = module.get_base_layer() if hasattr(module, "get_base_layer") else module
            if isinstance(bare, nn.Embedding) and id(module) not in inner:
                yield from module.parameters()


class Frozen(Wrapped):
    """Its `names` have no gradient while it is wrapped: `bare` gives it back to them, and a loss takes it again."""

    def __init__(self, victim: ChatVictim, names: tuple[str, ...]) -> None:
        super().__init__(victim)
        self.names = names
        self._learn(False)

    def loss(self, batch: Batch) -> Tensor:
        self._learn(False)  # a training that is watched takes the wrapping off at every step that is measured
        return super().loss(batch)

    def bare(self) -> Victim:
        self._learn(True)
        return super().bare()

    def _learn(self, may: bool) -> None:
        weights: Mapping[str, nn.Parameter] = dict(self.victim.named_parameters())
        for name in self.names:
            weights[name].requires_grad_(may)
