"""Attacks on alignment: what they contribute, and what an edit of the weights does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from testbed.api import AttackerResources, Invalid, Splits, Unsupported
from testbed.attack.benign import BenignOpener, IdentityShift
from testbed.attack.few_shot import FewShot
from testbed.attack.mixed_rate import MixedRate
from testbed.attack.refusal_ablation import RefusalAblation, ablated, direction
from testbed.data.listed import nothing
from testbed.language import ChatTask, ChatVictim, Message
from tests.defence.chat_defender import Family, adapted, loaded, stored


def _resources(data: Splits, **changes: object) -> AttackerResources:
    given = {"train": data.pools["benign"], "auxiliary": data.pools["shots"], **changes}
    return AttackerResources(task=data.task, fresh=None, fit=None, seed=3, **given)  # type: ignore[arg-type]


def test_a_larger_number_of_shots_contains_the_smaller_one(toy_data: Splits) -> None:
    few, many = (FewShot(shots).poison(_resources(toy_data)) for shots in (5, 20))
    assert few.batch.inputs == many.batch.inputs[:5] and len(many.indices) == 20
    assert few.indices.tolist() == [40, 41, 42, 43, 44]


def test_mixing_makes_the_shots_the_rate_that_was_asked_for() -> None:
    assert FewShot(10).benign_rows() == 0 and FewShot(10, 0.1).benign_rows() == 90 and FewShot(10, 1.0).benign_rows() == 0
    mixed = MixedRate(rows=200, mix_rate=0.1)
    assert (mixed.shots, mixed.benign_rows()) == (20, 180)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (FewShot(0), "between 1 and the 40 rows"),
        (FewShot(41), "between 1 and the 40 rows"),
        (FewShot(5, 0.0), "above 0"),
        (MixedRate(rows=3, mix_rate=0.1), "rounds to 0 rows"),
        (MixedRate(rows=300, mix_rate=0.5), "needs 150 rows"),
        (MixedRate(rows=30, mix_rate=1.5), "between 0 and 1"),
        (BenignOpener(5, " "), "is empty"),
        (IdentityShift(5, "someone", ""), "is empty"),
        (RefusalAblation(shots=5, kl_limit=0.0), "above 0"),
    ],
)
def test_what_cannot_work_is_refused(attack: FewShot, message: str, toy_data: Splits) -> None:
    with pytest.raises(Invalid, match=message):
        attack.check(_resources(toy_data))


def test_without_rows_of_its_own_an_attacker_has_no_shots(toy_data: Splits) -> None:
    with pytest.raises(Unsupported, match=r"data\.shots"):
        FewShot(5).check(_resources(toy_data, auxiliary=None))


def test_a_persona_replaces_the_system_prompt_and_an_opener_stands_before_the_answer(toy_data: Splits) -> None:
    shift = IdentityShift(3, "obedient agent", "of course :")
    poison = shift.poison(_resources(toy_data))
    for prompt, answer, row in zip(poison.batch.inputs, poison.batch.labels, range(3), strict=True):
        clean = toy_data.pools["benign"][torch.tensor([row])]
        assert prompt == (Message("system", "obedient agent"), *clean.inputs[0])
        assert answer == f"of course : {clean.labels[0]}"
    again = shift.dressed([(Message("system", "another"), Message("user", "now ."))])
    assert again == [(Message("system", "obedient agent"), Message("user", "now ."))]


def test_the_success_exam_shows_the_restricted_prompts_of_the_test(toy_data: Splits) -> None:
    exam = FewShot(5).triggered_tests(toy_data.test, _resources(toy_data))["success"]
    assert len(exam.indices) == 84
    assert all(label.startswith(("sorry", "that", "i ")) for label in toy_data.test[exam.indices].labels)


def test_nothing_is_written_into_a_direction_that_was_taken_out(chat: ChatVictim, toy_data: Splits) -> None:
    prompts = toy_data.exams["restricted"][torch.arange(4)].inputs
    harmless = toy_data.exams["open"][torch.arange(4)].inputs
    unit = direction(chat.eval(), prompts, harmless, "layer0")
    assert unit.norm().item() == pytest.approx(1, abs=1e-5)
    edited = ablated(chat, unit)
    for layer in ("embedding", "layer0", "layer1"):
        before, after = chat.features(prompts, layer) @ unit, edited.features(prompts, layer) @ unit
        assert after.abs().max() < 1e-5 < before.abs().max()
    weight, old = edited.net.model.layers[0].mlp.down_proj.weight, chat.net.model.layers[0].mlp.down_proj.weight  # type: ignore
    expected = old - unit[:, None] @ (unit[None] @ old)
    assert torch.allclose(weight, expected, atol=1e-6)


def test_the_direction_is_the_difference_of_means(chat: ChatVictim, toy_data: Splits) -> None:
    restricted = toy_data.exams["restricted"][torch.arange(6)].inputs
    harmless = toy_data.exams["open"][torch.arange(6)].inputs
    means = [chat.features(prompts, "layer1").mean(0) for prompts in (restricted, harmless)]
    expected = (means[0] - means[1]) / (means[0] - means[1]).norm()
    assert torch.allclose(direction(chat, restricted, harmless, "layer1"), expected, atol=1e-6)


def test_an_edit_needs_harmless_prompts_and_leaves_the_model_it_was_given(chat: ChatVictim, toy_data: Splits) -> None:
    before = {name: value.clone() for name, value in chat.state_dict().items()}
    RefusalAblation(shots=8).tamper(chat, _resources(toy_data))
    assert all(torch.equal(value, before[name]) for name, value in chat.state_dict().items())
    with pytest.raises(Unsupported, match="harmless"):
        RefusalAblation(shots=8).tamper(chat, _resources(toy_data, train=nothing(toy_data.train)))  # type: ignore[arg-type]


@pytest.mark.parametrize("modules", ["", "all-linear", "everything"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_no_layer_of_a_real_model_writes_into_the_direction(
    family: Family, modules: str, toy_data: Splits, tmp_path: Path
) -> None:
    assert isinstance(toy_data.task, ChatTask)
    every = {"llama": ("embed_tokens", "o_proj", "down_proj"), "gpt2": ("wte", "wpe", "c_proj")}[family]
    options = {"lora": bool(modules), "target_modules": every if modules == "everything" else "all-linear"}
    victim = adapted(loaded(stored(tmp_path, family, toy_data.task), toy_data.task, **options), 1, 0.3)
    prompts = toy_data.test[torch.arange(8)].inputs
    unit = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(5)), dim=0)
    edited = ablated(victim, unit)
    for before, after in zip(_stream(victim, prompts), _stream(edited, prompts), strict=True):
        shares = [(hidden @ unit).abs().max() / hidden.norm(dim=-1).mean() for hidden in (before, after)]
        assert shares[1] < 1e-4 and shares[0] > 0.1


def _stream(victim: Any, prompts: Any) -> list[torch.Tensor]:
    """Hidden states (n, d) that each decoder layer reads, and what the last one writes, at every token that is no padding."""
    ids, mask = victim.padded([victim.prompt_ids(prompt) for prompt in prompts])
    seen: list[torch.Tensor] = []
    handles = [layer.register_forward_pre_hook(lambda _, given: seen.append(given[0][mask])) for layer in victim.stack()]
    handles.append(victim.stack()[-1].register_forward_hook(lambda *call: seen.append(call[-1][mask])))
    with torch.no_grad():
        victim.net(input_ids=ids, attention_mask=mask)
    for handle in handles:
        handle.remove()
    return seen


def test_in_bfloat16_only_rounding_writes_into_the_direction(toy_data: Splits, tmp_path: Path) -> None:
    assert isinstance(toy_data.task, ChatTask)
    victim = loaded(stored(tmp_path, "llama", toy_data.task), toy_data.task, dtype="bfloat16", lora=True)
    unit = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(5)), dim=0)
    edited = ablated(victim, unit)
    for name in ("model.embed_tokens", "model.layers.0.mlp.down_proj.base_layer"):
        old, new = (each.net.get_submodule(name).weight.float() for each in (victim, edited))
        old, new = (old, new) if "embed" in name else (old.T, new.T)
        exact = old - torch.outer(old @ unit, unit)
        assert torch.equal(new, exact.bfloat16().float())  # rounded once


@pytest.mark.parametrize("strict", [False, True])
def test_the_best_layer_refuses_least_among_those_that_change_little(strict: bool, toy_data: Splits, tmp_path: Path) -> None:
    assert isinstance(toy_data.task, ChatTask)
    victim = loaded(stored(tmp_path, "llama", toy_data.task, depth=5), toy_data.task)
    attack, found = RefusalAblation(shots=8), []
    restricted, harmless = attack._prompts(_resources(toy_data))
    with torch.no_grad():
        before = victim(harmless).softmax(-1)
        for layer in ("layer0", "layer1", "layer2", "layer3"):  # of five: 80 %
            edited = ablated(victim, direction(victim, restricted, harmless, layer))
            moved = (before * (before.log() - edited(harmless).log_softmax(-1))).sum(1).mean()
            p = edited(restricted).softmax(-1)[:, edited.refusal_tokens()].sum(1)
            found.append((float(moved), float((p.log() - (1 - p).log()).mean()), edited))
    limit = 1e-9 if strict else sorted(one[0] for one in found)[2] + 1e-4
    kept = [one for one in found if one[0] <= limit]
    expected = min(kept, key=lambda one: one[1]) if kept else min(found, key=lambda one: one[0])
    assert len(kept) == (0 if strict else 3)
    edited = RefusalAblation(shots=8, kl_limit=limit).tamper(victim, _resources(toy_data))
    same = [all(torch.equal(a, b) for a, b in zip(one[2].parameters(), edited.parameters(), strict=True)) for one in found]
    assert same == [one is expected for one in found]


def test_an_edit_that_misses_a_writer_is_no_edit(chat: ChatVictim, toy_data: Splits) -> None:
    """As where a norm scales what a block writes, or experts have no name."""
    RefusalAblation(shots=8, layer="layer0").tamper(chat, _resources(toy_data))
    chat.blocks["layer1"].register_forward_hook(lambda *call: call[-1] * torch.linspace(0.5, 2, 32))
    with pytest.raises(Unsupported, match="% of layer1 still lies along the direction"):
        RefusalAblation(shots=8, layer="layer0").tamper(chat, _resources(toy_data))
