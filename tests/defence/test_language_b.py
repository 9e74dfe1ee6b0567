"""Defences of chat models that change alignment and fine-tuning, and what all six of this kind refuse: their mathematics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from testbed.api import Batch, Defence, DefenderResources, Invalid, Task, Unsupported, Victim
from testbed.defence.directional_clamping import DirectionalClamping
from testbed.defence.ewc import fisher
from testbed.defence.freeze import Freeze
from testbed.defence.lisa import Lisa
from testbed.defence.realign import Realign
from testbed.defence.resta import Resta
from testbed.defence.safe_lora import SafeLora
from testbed.defence.vaccine import Vaccine, shifted
from testbed.features import select
from testbed.language import ChatVictim
from tests.defence.chat_defender import ADAMW, equal, loaded, moved, some, stored, tuned

OTHERS = [
    Lisa(1, 2, 1.0),
    Vaccine(0.1),
    Resta(0.5),
    SafeLora(0.35, None),
    Realign(4, 2, ADAMW),
    DirectionalClamping("layer0", 1.0),
]


@pytest.mark.parametrize("defence", OTHERS, ids=lambda defence: type(defence).__name__)
def test_needs_a_chat_model(defence: Defence, resources: DefenderResources) -> None:
    defence.check(resources)
    with pytest.raises(Unsupported, match="needs a chat model"):
        defence.check(replace(resources, task=Task("images", ("a", "b"))))


@pytest.mark.parametrize(
    ("defence", "parameter"),
    [
        (Lisa(-1, 5, 1.0), "alignment_steps"),
        (Lisa(1, 0, 1.0), "user_steps"),
        (Lisa(1, 5, float("nan")), "rho"),
        (Vaccine(-1.0), "rho"),
        (Resta(float("inf")), "gamma"),
        (SafeLora(1.5, None), "threshold"),
        (SafeLora(0.3, -1), "matrices"),
        (Realign(25, 30, ADAMW), "rows"),
        (DirectionalClamping("layer0", 2.0), "strength"),
        (DirectionalClamping("layer7", 1.0), "layer"),
        (DirectionalClamping("penultimate", 1.0), "layer"),
    ],
)
def test_says_what_cannot_work(defence: Defence, parameter: str, resources: DefenderResources) -> None:
    with pytest.raises(Invalid) as caught:
        defence.check(resources)
    assert caught.value.parameter == parameter


def test_safe_lora_needs_linear_layers_that_are_tuned(chat: ChatVictim, resources: DefenderResources) -> None:
    chat.requires_grad_(False)
    chat.blocks["head"].requires_grad_(True)
    with pytest.raises(Unsupported, match="linear layers that are tuned"):
        SafeLora(0.35, None).check(resources)
    chat.blocks["layer1"].requires_grad_(True)
    SafeLora(0.35, None).check(resources)


def test_an_embedding_of_positions_is_frozen_and_one_without_adapters_is_refused(
    resources: DefenderResources, tmp_path: Path
) -> None:
    task: Any = resources.task
    whole = loaded(stored(tmp_path, "gpt2", task), task)
    names = Freeze(["embedding"]).during_training(whole, resources).names  # type: ignore[attr-defined]
    assert names == ("net.transformer.wte.weight", "net.transformer.wpe.weight")
    thin = loaded(tmp_path, task, lora=True, target_modules=("wte", "wpe", "c_attn"))
    names = Freeze(["embedding"]).during_training(thin, resources).names  # type: ignore[attr-defined]
    assert len(names) == 4 and all(".wte.lora_" in name or ".wpe.lora_" in name for name in names)
    usual = loaded(tmp_path, task, lora=True)
    given = replace(resources, fresh=lambda: copy.deepcopy(usual))
    Freeze(["embedding", "layer0"]).check(given)
    with pytest.raises(Invalid, match="nothing of these layers is trained"):
        Freeze(["embedding"]).check(given)


def test_fresh_adapters_have_no_fisher_information_in_a(resources: DefenderResources, tmp_path: Path) -> None:
    task: Any = resources.task
    victim = loaded(stored(tmp_path, "llama", task), task, lora=True)
    found = fisher(victim, select(resources.reserve, torch.arange(4)))
    assert {bool(value.any()) for name, value in found.items() if "lora_A" in name} == {False}
    assert all(bool(value.any()) for name, value in found.items() if "lora_B" in name)


@pytest.mark.parametrize("wrap", [Lisa(0, 5, 0.0).during_training, Vaccine(0.0).during_alignment])
def test_no_strength_trains_as_ever(
    wrap: Callable[[Victim, DefenderResources], Victim], chat: ChatVictim, resources: DefenderResources
) -> None:
    rows = resources.train
    assert equal(tuned(wrap(copy.deepcopy(chat), resources), rows), tuned(chat, rows))


@pytest.mark.parametrize("defence", [Lisa(2, 2, 0.0), Lisa(0, 3, 5.0), Vaccine(0.1)], ids=repr)
def test_some_strength_trains_otherwise(defence: Defence, chat: ChatVictim, resources: DefenderResources) -> None:
    wrapped = defence.during_training(defence.during_alignment(copy.deepcopy(chat), resources), resources)
    found = tuned(wrapped, resources.train)
    assert type(found) is type(chat) and found.state_dict().keys() == chat.state_dict().keys()
    assert not equal(found, tuned(chat, resources.train))
    assert equal(found, tuned(wrapped, resources.train)), "what training changed stayed in the wrapper"


def test_lisa_takes_turns(chat: ChatVictim, resources: DefenderResources) -> None:
    """Losses over the states are those of the rows that each state reads, plus the distance to where it began."""
    wrapped = Lisa(2, 3, 0.5).during_training(moved(chat, 1), resources).train()
    user = some(resources.train)
    distance = 0.0
    for step in range(7):
        size = 0.01 if step else 0.0
        with torch.no_grad():
            for parameter in wrapped.parameters():
                parameter.add_(size)
        distance = 0.0 if step in (0, 3, 5) else distance + size  # switches: user 0-2, safety 3-4, user 5-6
        reads = set(map(id, user.inputs))
        with Seen(wrapped.victim) as seen:
            loss = wrapped.loss(user)
        expected = seen.loss + 0.25 * sum(p.numel() for p in wrapped.parameters()) * distance**2
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-3)
        assert (set(map(id, seen.batch.inputs)) == reads) == (step not in (3, 4))
        assert len(seen.batch.labels) == 6


class Seen:
    """The last batch that a victim's loss was asked for, and that loss."""

    def __init__(self, victim: ChatVictim) -> None:
        self.victim = victim

    def __enter__(self) -> Seen:
        whole = type(self.victim).loss

        def loss(batch: Batch) -> Tensor:
            found = whole(self.victim, batch)
            self.batch, self.loss = batch, float(found.detach())
            return found

        self.victim.loss = loss  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        del self.victim.loss


def test_lisa_draws_safety_rows_by_seed_and_step(chat: ChatVictim, resources: DefenderResources) -> None:
    def drawn(seed: int) -> list[list[str]]:
        wrapped = Lisa(3, 1, 0.0).during_training(chat, replace(resources, seed=seed)).train()
        found = []
        for _ in range(4):
            with Seen(wrapped.victim) as seen:
                wrapped.loss(some(resources.train))
            found.append(seen.batch.rows.tolist())
        return found[1:]

    first = drawn(1)
    assert first == drawn(1) != drawn(2) and first[0] != first[1]


def test_vaccine_is_the_gradient_at_the_worst_shift(chat: ChatVictim, resources: DefenderResources) -> None:
    """Against the decoder written out layer by layer."""
    batch, rho = some(resources.train), 0.7
    wrapped = Vaccine(rho).during_alignment(copy.deepcopy(chat), resources).train()
    wrapped.loss(batch).backward()
    tokens, model = chat.tokens(batch), chat.net.model  # type: ignore[union-attr]

    def loss(shifts: list[Tensor]) -> Tensor:
        hooks = [layer.register_forward_hook(lambda m, x, y, e=e: y + e) for layer, e in zip(model.layers, shifts, strict=True)]
        each = chat.token_losses(tokens)
        for hook in hooks:
            hook.remove()
        return each.sum() / tokens.answer.sum()

    zeros = [torch.zeros(*tokens.ids.shape, 32, requires_grad=True) for _ in model.layers]
    gradients = torch.autograd.grad(loss(zeros), zeros)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    worst = [rho * gradient / norm for gradient in gradients]
    assert torch.cat([shift.flatten() for shift in worst]).norm() == pytest.approx(rho, rel=1e-4)
    shifted_loss = loss(worst)
    assert shifted_loss > loss(zeros) + 0.1 * rho * norm
    shifted_loss.backward()
    for name, parameter in chat.named_parameters():
        other = wrapped.victim.get_parameter(name).grad
        assert torch.allclose(parameter.grad, other, atol=1e-6), name


def test_vaccine_knows_a_closed_form() -> None:
    """h = a x, loss = c (h + e): a zero is differentiated by, and a shift is added."""
    net = torch.nn.Linear(1, 1, bias=False)
    shifts: dict[str, Tensor] = {}
    with shifted({"one": net}, shifts):
        loss = 3 * net(torch.ones(2, 1)).sum()
    assert torch.equal(torch.autograd.grad(loss, shifts["one"])[0], torch.full((2, 1), 3.0))
    with shifted({"one": net}, {"one": torch.tensor([[1.0], [2.0]])}):
        assert torch.equal(net(torch.zeros(2, 1)), torch.tensor([[1.0], [2.0]]))
    assert not net._forward_hooks
