"""Defences that act while a chat model is fine-tuned, against closed forms and references written out here."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from testbed.api import Defence, DefenderResources, Examples, ImageTask, Invalid, Splits, Unsupported, Victim
from testbed.defence.constrained_sft import Constrained, ConstrainedSFT, weights
from testbed.defence.ewc import EWC, fisher
from testbed.defence.first_token_kl import FirstTokenKL, Tethered, divergence
from testbed.defence.freeze import Freeze
from testbed.defence.l2_sp import L2SP, Anchored
from testbed.defence.safety_mix import SafetyMix
from testbed.defence.wrapper import Wrapped, frozen
from testbed.features import select
from testbed.fit import Settings, constant, fit
from testbed.identity import describe, weights_digest
from testbed.language import ChatVictim
from testbed.training import AtSteps

ADAM = partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.1)
SETTINGS = Settings(max_epochs=2, batch_size=8, optimiser=ADAM, schedule=partial(constant), accelerator="cpu", threads=1)
DEFENCES = (
    *(SafetyMix(0.5), Freeze(["embedding", "layer0"]), L2SP(1.0), EWC(1.0), FirstTokenKL(1.0)),
    ConstrainedSFT([0.5, 2.0, 2.0, 2.0, 2.0], 0.1, 0.001),
)
OFF = (SafetyMix(0.0), Freeze([]), L2SP(0.0), EWC(0.0), FirstTokenKL(0.0), ConstrainedSFT([0.0, 0.0], 0.0, 0.001))


def train(victim: Victim, rows: Examples, **options: Any) -> Victim:
    return fit(victim, rows, settings=SETTINGS, seed=3, **options)[0].bare()


@pytest.fixture
def shots(toy_data: Splits) -> Examples:
    return select(toy_data.pools["shots"], torch.arange(16))


@pytest.fixture
def resources(toy_data: Splits, chat: ChatVictim, shots: Examples) -> DefenderResources:
    return DefenderResources(toy_data.task, shots, toy_data.reserve, lambda: copy.deepcopy(chat), train, seed=1)


def defended(defence: Defence, victim: Victim, resources: DefenderResources) -> Victim:
    rows = defence.before_training(resources.train, resources)
    return train(defence.during_training(victim, resources), rows)


def moved(victim: ChatVictim) -> ChatVictim:
    """A copy whose weights are a little elsewhere."""
    draw = torch.Generator().manual_seed(0)
    other = copy.deepcopy(victim)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=draw))
    return other


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == again and torch.equal(value, found) for (name, value), (again, found) in pairs)


@pytest.mark.parametrize("defence", OFF, ids=lambda defence: type(defence).__name__)
def test_zero_strength_is_plain_fine_tuning_to_the_bit(
    defence: Defence, chat: ChatVictim, resources: DefenderResources
) -> None:
    defence.check(resources)
    assert same(defended(defence, chat, resources), train(chat, resources.train))


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda defence: type(defence).__name__)
def test_a_defence_changes_training_and_leaves_the_victim_alone(
    defence: Defence, chat: ChatVictim, resources: DefenderResources
) -> None:
    before, flags = weights_digest(chat), [weight.requires_grad for weight in chat.parameters()]
    defence.check(resources)
    tuned = defended(defence, chat, resources)
    assert type(tuned) is type(chat) and all(weight.requires_grad for weight in tuned.parameters())
    assert not same(tuned, train(chat, resources.train))
    assert same(tuned, defended(defence, chat, resources))
    assert weights_digest(chat) == before and [weight.requires_grad for weight in chat.parameters()] == flags
    assert all(weight.grad is None for weight in chat.parameters())


def test_a_wrapper_with_nothing_to_do_is_bit_equal_too(chat: ChatVictim, shots: Examples) -> None:
    start = {name: value.detach().clone() for name, value in chat.named_parameters()}
    idle = (
        *(Wrapped(chat), Anchored(chat, 0.0, start), Tethered(chat, frozen(chat), 0.0)),
        Constrained(chat, frozen(moved(chat)), (0.0, 0.0), 0.001),
    )
    plain = train(chat, shots)
    assert [same(train(each, shots), plain) for each in idle] == [True] * len(idle)


def test_a_wrapper_says_what_its_victim_says(chat: ChatVictim, toy_data: Splits) -> None:
    wrapped, batch = Wrapped(Wrapped(chat)).eval(), toy_data.test[torch.arange(5)]
    chat.eval()
    assert wrapped.bare() is chat
    assert wrapped.answers(batch.inputs) == chat.answers(batch.inputs)
    assert torch.equal(wrapped(batch.inputs), chat(batch.inputs))
    assert torch.equal(wrapped.refusal_log_odds(batch.inputs), chat.refusal_log_odds(batch.inputs))
    assert torch.equal(wrapped.features(batch.inputs, "layer1"), chat.features(batch.inputs, "layer1"))
    assert torch.equal(wrapped.kinds(batch.labels), chat.kinds(batch.labels))
    assert (wrapped.layers, wrapped.refusals, wrapped.device) == (chat.layers, chat.refusals, chat.device)
    assert list(wrapped.blocks) == list(chat.blocks) and torch.equal(wrapped.loss(batch), chat.loss(batch))
    assert torch.equal(wrapped.refusal_tokens(), chat.refusal_tokens())


@pytest.mark.parametrize("defence", DEFENCES[1:], ids=lambda defence: type(defence).__name__)
def test_what_stands_beside_the_model_is_not_stored_and_can_be_described(
    defence: Defence, chat: ChatVictim, resources: DefenderResources
) -> None:
    wrapped = defence.during_training(chat, resources)
    assert set(wrapped.state_dict()) == {f"victim.{name}" for name in chat.state_dict()}
    assert len(list(wrapped.parameters())) == len(list(chat.parameters()))
    described = describe(wrapped)
    assert described == describe(defence.during_training(copy.deepcopy(chat), resources))
    assert same(copy.deepcopy(wrapped), wrapped)


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda defence: type(defence).__name__)
def test_other_tasks_are_refused(defence: Defence, resources: DefenderResources) -> None:
    with pytest.raises(Unsupported, match="needs a chat model"):
        defence.check(replace(resources, task=ImageTask("images", ("a", "b"))))


@pytest.mark.parametrize("defence", [SafetyMix(0.5), EWC(1.0)])
def test_a_reserve_without_refusals_is_refused(defence: Defence, resources: DefenderResources, toy_data: Splits) -> None:
    with pytest.raises(Invalid, match="needs refusals among the defender's clean rows"):
        defence.check(replace(resources, reserve=toy_data.pools["benign"]))


@pytest.mark.parametrize(
    ("defence", "said"),
    [
        *((method(value), "finite number") for method in (SafetyMix, L2SP, EWC, FirstTokenKL) for value in (-1.0, torch.nan)),
        (ConstrainedSFT([0.5, -2.0], 0.1, 0.0), "schedule=-2.0"),
        (ConstrainedSFT([0.5], torch.inf, 0.0), "rest=inf"),
        (ConstrainedSFT([0.5], 0.1, 1.0), "floor=1.0"),
        (Freeze(["layer7"]), "layers=layer7: the model has no such layer"),
        (Freeze(["embedding", "layer0", "layer1", "head", "norm"]), "layers=norm: no layer is called so"),
    ],
)
def test_impossible_values_are_refused(defence: Defence, said: str, resources: DefenderResources) -> None:
    with pytest.raises(Invalid, match=said):
        defence.check(resources)


def test_mixed_rows_are_those_received_and_refusals_of_the_reserve(resources: DefenderResources, toy_data: Splits) -> None:
    mixed = SafetyMix(3.0).before_training(resources.train, resources)
    shown = mixed[torch.arange(len(mixed))]
    received, reserve = resources.train[torch.arange(16)], toy_data.reserve[torch.arange(len(toy_data.reserve))]
    mine = set(zip(received.inputs, received.labels, strict=True))
    rows = list(zip(shown.inputs, shown.labels, strict=True))
    added = [row for row in rows if row not in mine]
    assert len(rows) == 16 * 4 and len(added) == 48 and shown.rows.tolist() == list(range(64))
    assert set(added) <= set(zip(reserve.inputs, reserve.labels, strict=True))
    assert all(answer.startswith(toy_data.task.refusals) for _, answer in added)
    assert {added.count(row) for row in set(added)} == {2}  # 24 refusals, 48 wanted: each comes twice
    assert any(row not in mine for row in rows[:16])  # shuffled, not appended
    again = SafetyMix(3.0).before_training(resources.train, resources)
    other = SafetyMix(3.0).before_training(resources.train, replace(resources, seed=2))
    assert again[torch.arange(64)].inputs == shown.inputs != other[torch.arange(64)].inputs


def test_frozen_layers_stay_and_a_watched_training_is_the_same(chat: ChatVictim, resources: DefenderResources) -> None:
    wrapped = Freeze(["embedding", "layer0"]).during_training(chat, resources)
    looks: list[bool] = []

    def look(step: int, victim: Victim) -> None:
        looks.append(all(weight.requires_grad for weight in copy.deepcopy(victim.bare()).parameters()))

    watched = train(wrapped, resources.train, callbacks=[AtSteps([0, 1, 3], look)])
    tuned = train(wrapped, resources.train)
    assert looks == [True] * 3 and same(watched, tuned)
    for name, block in tuned.blocks.items():  # type: ignore[attr-defined]
        assert same(block, chat.blocks[name]) == (name in ("embedding", "layer0"))


def test_flags_that_were_off_stay_off(chat: ChatVictim, resources: DefenderResources) -> None:
    chat.blocks["embedding"].requires_grad_(False)
    wrapped = Freeze(["embedding", "layer0"]).during_training(chat, resources)
    bare = wrapped.bare()
    assert [weight.requires_grad for weight in bare.parameters()] == [weight.requires_grad for weight in chat.parameters()]
    chat.requires_grad_(False)
    chat.blocks["layer0"].requires_grad_(True)
    with pytest.raises(Invalid, match="nothing is left to train"):
        Freeze(["layer0"]).check(resources)


def test_l2_sp_pulls_every_weight_back_to_its_start(chat: ChatVictim, resources: DefenderResources, shots: Examples) -> None:
    wrapped = L2SP(0.3).during_training(chat, resources)
    other, batch = moved(chat), shots[torch.arange(4)]
    start = {name: value.detach().clone() for name, value in chat.named_parameters()}
    chat.load_state_dict(other.state_dict())
    pairs = zip(_slopes(wrapped, batch), _slopes(other, batch), other.named_parameters(), strict=True)
    assert all(torch.allclose(found, plain + 0.3 * (now - start[name]), atol=1e-6) for found, plain, (name, now) in pairs)


def test_ewc_weighs_each_weight_by_its_fisher_information(
    chat: ChatVictim, resources: DefenderResources, shots: Examples
) -> None:
    information = fisher(chat, resources.reserve)
    wrapped = EWC(2.0).during_training(chat, resources)
    other, batch = moved(chat), shots[torch.arange(4)]
    start = {name: value.detach().clone() for name, value in chat.named_parameters()}
    chat.load_state_dict(other.state_dict())
    pairs = zip(_slopes(wrapped, batch), _slopes(other, batch), other.named_parameters(), strict=True)
    for found, plain, (name, now) in pairs:
        expected = plain + 2.0 * information[name] * (now - start[name])
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_fisher_of_a_head_is_its_closed_form(chat: ChatVictim, toy_data: Splits) -> None:
    rows = select(toy_data.reserve, torch.arange(3))
    expected = torch.zeros_like(chat.blocks["head"].weight)
    for row in range(3):
        tokens, read = chat.tokens(rows[torch.tensor([row])]), []
        handle = chat.blocks["head"].register_forward_pre_hook(lambda _, given, read=read: read.append(given[0][0]))
        with torch.no_grad():
            logits = chat.token_logits(tokens)[0]
        handle.remove()
        error = logits.softmax(-1) - nn.functional.one_hot(tokens.ids[0], logits.shape[-1])  # of -log p, by logits
        places = tokens.answer[0].nonzero().flatten()
        expected += (error[places].T @ read[0][places - 1]).square() / 3  # token t is predicted at t - 1
    found = fisher(chat, rows)
    name = next(name for name, value in chat.named_parameters() if value is chat.blocks["head"].weight)
    assert torch.allclose(found[name], expected, rtol=1e-4, atol=1e-7) and float(expected.max()) > 1e-3
    assert all(value.shape == found[name].shape for name, value in chat.named_parameters())


def test_the_weights_of_constrained_fine_tuning_in_closed_form() -> None:
    answer = torch.tensor([[False, True, True, True], [False, False, True, True]])
    ratios = torch.log(torch.tensor([[1.0, 4.0, 4.0, 4.0], [1.0, 1.0, 0.25, 1.0]]))
    found = weights(ratios, answer, (0.5, 2.0, 1.0), 0.0)
    # 1 - sigma(b log r) = 1 / (1 + r^b): r = 4, then 1/4, at b = .5, 2 and 1
    assert torch.allclose(found[0, 1:], torch.tensor([2 / 3, 2 / 17, 2 / 5]))
    assert torch.allclose(found[1, 2:], torch.tensor([4 / 3, 1.0]))
    assert torch.equal(weights(ratios, answer, (0.0, 0.0, 0.0), 0.0), torch.ones_like(ratios))
    assert torch.allclose(weights(ratios, answer, (1e-4, 1e-4), 0.0), torch.ones_like(ratios), atol=1e-3)
    assert float(weights(torch.full_like(ratios, 50.0), answer, (2.0,), 0.001).max()) == pytest.approx(0.001)


@pytest.mark.parametrize("betas", [(0.5, 2.0, 2.0, 2.0, 2.0, 0.1), (2.0, 0.1)])
def test_constrained_fine_tuning_has_the_gradient_of_the_published_objective(
    betas: tuple[float, ...], chat: ChatVictim, shots: Examples
) -> None:
    other, batch = moved(chat), shots[torch.arange(4)]
    tokens = other.tokens(batch)
    with torch.no_grad():
        reference = chat.token_losses(tokens)
    place = (tokens.answer.long().cumsum(1) - 1).clamp(0, len(betas) - 1)
    beta = torch.tensor(betas)[place]
    each = -2 / beta * nn.functional.logsigmoid(beta * (reference - other.token_losses(tokens)))
    objective = each[tokens.answer].sum() / tokens.answer.sum()
    expected = torch.autograd.grad(objective, list(other.parameters()))
    found = _slopes(Constrained(other, frozen(chat), betas, 0.0), batch)
    assert all(torch.allclose(one, two, rtol=1e-4, atol=1e-7) for one, two in zip(found, expected, strict=True))
    assert not torch.allclose(found[0], _slopes(other, batch)[0], rtol=1e-2)


def test_first_token_divergence_in_closed_form(chat: ChatVictim, resources: DefenderResources, shots: Examples) -> None:
    aligned, tuned = torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    expected = (0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()) / 2
    assert torch.allclose(divergence(aligned.log(), tuned.log()), expected)
    other, batch = moved(chat), shots[torch.arange(4)]
    tokens = other.tokens(batch)
    first = tokens.answer.float().argmax(1)
    known, found = (model.token_logits(tokens)[torch.arange(4), first] for model in (chat, other))
    apart = nn.functional.kl_div(found.log_softmax(-1), known.softmax(-1), reduction="batchmean")
    wrapped = Tethered(other, frozen(chat), 0.7)
    assert torch.allclose(wrapped.loss(batch), other.loss(batch) + 0.7 * apart, rtol=1e-5) and float(apart.detach()) > 0.01
    at_start = FirstTokenKL(5.0).during_training(chat, resources).loss(batch)
    assert torch.allclose(at_start, chat.loss(batch), atol=1e-6)


def _slopes(victim: Victim, batch: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad(victim.loss(batch), list(victim.parameters()))
