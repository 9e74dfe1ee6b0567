"""Defences of chat models that repair a tuned model or watch over its answers: their mathematics."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from testbed.api import Batch, Defence, DefenderResources, Examples, Unsupported, Victim
from testbed.defence.directional_clamping import Axis, Clamped, DirectionalClamping, axis_of
from testbed.defence.realign import Realign
from testbed.defence.resta import Resta
from testbed.defence.safe_lora import SafeLora, matrices, projected, projections
from testbed.defence.weight import weights
from testbed.features import evaluating, read
from testbed.language import ChatVictim, Prompt, Tokens, refuses
from tests.defence.chat_defender import ADAMW, Family, adapted, equal, loaded, moved, some, stored, tuned


@pytest.mark.parametrize(
    "defence", [Resta(0.0), SafeLora(-0.1, None), SafeLora(0.9, 0), Realign(4, 0, ADAMW), Realign(0, 4, ADAMW)], ids=repr
)
def test_no_strength_repairs_nothing(defence: Defence, chat: ChatVictim, resources: DefenderResources) -> None:
    assert equal(defence.after_training(copy.deepcopy(chat), resources), chat)


def test_resta_adds_what_alignment_changed(chat: ChatVictim, resources: DefenderResources) -> None:
    victim = moved(chat, 2)
    repaired = Resta(0.5).after_training(victim, resources)
    base, aligned = resources.reference  # type: ignore[misc]
    for name, value in repaired.named_parameters():
        expected = victim.get_parameter(name) + 0.5 * (aligned.get_parameter(name) - base.get_parameter(name))
        assert torch.allclose(value, expected, atol=1e-6), name
    assert equal(victim, moved(chat, 2))


@pytest.mark.parametrize("defence", [Resta(0.5), SafeLora(0.35, None)], ids=repr)
def test_calculating_with_weights_needs_the_base(defence: Defence, chat: ChatVictim, resources: DefenderResources) -> None:
    with pytest.raises(Unsupported, match=r"needs the base model: model\.base="):
        defence.after_training(chat, replace(resources, reference=None))


def test_a_projection_by_hand() -> None:
    """V = diag(2, 0): C = V V^T / ||V|| = diag(2, 0) is no projector, and doubles what it keeps."""
    onto = projected(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.ones(2, 2))
    assert torch.equal(onto, torch.tensor([[2.0, 2.0], [0.0, 0.0]]))


def test_safe_lora_replaces_changes_of_low_cosine(chat: ChatVictim, resources: DefenderResources) -> None:
    base, aligned = resources.reference  # type: ignore[misc]
    victim = moved(aligned, 2)
    cosines = sorted(each.cosine for each in projections(victim, (base, aligned)))
    middle, count = sum(cosines) / len(cosines), 0
    repaired = SafeLora(middle, None).after_training(victim, resources)
    linear = matrices(victim)
    assert len(cosines) == len(linear) == 2 * 7
    for name, tuned_weight in victim.named_parameters():
        expected = tuned_weight.detach()
        if name in linear:
            started = aligned.get_parameter(name).detach()
            vector, change = started - base.get_parameter(name).detach(), expected - started
            kept = vector @ vector.T @ change / vector.square().sum().sqrt()
            if cosine_similarity(kept.flatten(), change.flatten(), dim=0) <= middle:
                expected, count = started + kept, count + 1
        assert torch.allclose(repaired.get_parameter(name), expected, atol=1e-5), name
    assert 0 < count < 14
    by_number = SafeLora(0.0, count).after_training(victim, resources)
    assert equal(by_number, repaired)


def test_a_matrix_that_alignment_left_alone_stays(chat: ChatVictim, resources: DefenderResources) -> None:
    victim = moved(chat, 2)
    assert equal(SafeLora(1.0, None).after_training(victim, replace(resources, reference=(chat, chat))), victim)


def with_adapters(victim: ChatVictim, seed: int) -> Any:
    """A copy with adapters on two kinds of matrix, that add something."""
    from peft import LoraConfig, get_peft_model

    found: Any = copy.deepcopy(victim)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        found.net = get_peft_model(found.net, config)
    return found


def merged(victim: Any) -> ChatVictim:
    found = copy.deepcopy(victim)
    found.net = found.net.merge_and_unload()
    return found


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # said of peft by transformers
def test_adapters_count_as_what_they_add(chat: ChatVictim) -> None:
    adapted = with_adapters(chat, 0)
    expected = dict(merged(adapted).named_parameters())
    found = weights(adapted)
    assert found.keys() == expected.keys() == dict(chat.named_parameters()).keys()
    assert all(torch.allclose(found[name].value, value, atol=1e-6) for name, value in expected.items())
    apart = {name: value.since(weights(chat)[name]) for name, value in found.items()}
    assert all(torch.equal(value, found[name].adapters) for name, value in apart.items())  # not rounded by the parameter
    assert not torch.allclose(
        expected["net.model.layers.0.self_attn.q_proj.weight"], chat.net.model.layers[0].self_attn.q_proj.weight
    )


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # said of peft by transformers
@pytest.mark.parametrize("defence", [Resta(0.5), SafeLora(1.0, None)], ids=repr)
def test_repairing_an_adapted_model_is_repairing_the_merged_one(
    defence: Defence, chat: ChatVictim, resources: DefenderResources
) -> None:
    adapted = with_adapters(resources.reference[1], 0)  # type: ignore[index, arg-type]
    one, other = (defence.after_training(each, resources) for each in (adapted, merged(adapted)))
    prompts = some(resources.train).inputs
    with torch.no_grad():
        assert torch.allclose(one(prompts), other(prompts), atol=1e-4)
        assert not torch.allclose(one(prompts), adapted(prompts), atol=1e-2)


def dense(victim: Any) -> dict[str, Tensor]:
    """float64: every weight with its adapter's 16/8 B A written out, linear ones as (out, in)."""
    layers = {id(module.base_layer.weight): module for module in victim.modules() if hasattr(module, "lora_B")}
    found = {}
    for name, weight in weights(victim).items():
        value = weight.parameter.detach().double()
        found[name] = value.T if "transformer.h" in name and value.ndim == 2 else value  # GPT-2 keeps them transposed
        if id(weight.parameter) in layers:
            layer = layers[id(weight.parameter)]
            found[name] = found[name] + 2 * layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
    return found


@pytest.mark.parametrize(("lora", "dtype"), [(True, "float32"), (True, "bfloat16"), (False, "float32")])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_safe_lora_of_a_real_model_is_the_dense_formula(
    family: Family, lora: bool, dtype: str, resources: DefenderResources, tmp_path: Path
) -> None:
    """With adapters nothing is rounded to the type of the weights, however small a change: 3e-5 is a step at a low rate."""
    task: Any = resources.task
    before, folder = stored(tmp_path / "base", family, task, seed=1), stored(tmp_path / "aligned", family, task)
    aligned = loaded(folder, task, lora=lora, dtype=dtype, base=before)
    reference, victim = (aligned.base(), aligned), adapted(aligned, 2, 3e-5)
    repaired = SafeLora(1.0, None).after_training(victim, replace(resources, reference=reference))  # type: ignore[arg-type]
    old, start, tuned_to, found = (dense(each) for each in (*reference, victim, repaired))
    linear = [name for name in found if name.endswith(("proj.weight", "c_attn.weight", "c_fc.weight"))]
    assert len(linear) == 2 * (7 if family == "llama" else 4)
    for name, value in found.items():
        change, vector = tuned_to[name] - start[name], start[name] - old[name]
        expected = vector @ vector.T @ change / vector.norm() if name in linear else change
        assert torch.allclose(value, start[name] + expected, atol=1e-5)
        assert (value - start[name] - expected).norm() <= (1e-5 if lora else 3e-3) * expected.norm(), name
        assert name not in linear or (expected - change).norm() > 0.1 * change.norm()


def test_safe_lora_adds_to_the_parameter_where_the_aligned_model_has_an_adapter(
    resources: DefenderResources, tmp_path: Path
) -> None:
    task: Any = resources.task
    base = loaded(stored(tmp_path, "llama", task), task, lora=True)
    aligned = adapted(base, 1)
    victim = adapted(aligned, 2)
    repaired = SafeLora(1.0, None).after_training(victim, replace(resources, reference=(base, aligned)))
    old, start, tuned_to, found = (dense(each) for each in (base, aligned, victim, repaired))
    name = "net.model.layers.1.mlp.down_proj.weight"
    vector, change = start[name] - old[name], tuned_to[name] - start[name]
    assert torch.allclose(found[name], start[name] + vector @ vector.T @ change / vector.norm(), atol=1e-6)
    assert all(torch.equal(value, victim.get_parameter(name)) for name, value in repaired.named_parameters() if "lora" in name)


def test_realign_tunes_on_refusals_and_as_many_others(chat: ChatVictim, resources: DefenderResources) -> None:
    seen: list[tuple[Examples, dict[str, Any]]] = []

    def watched(victim: Victim, examples: Examples, **options: Any) -> Victim:
        seen.append((examples, options))
        return tuned(victim, examples, **options)

    found = Realign(5, 3, ADAMW).after_training(chat, replace(resources, fit=watched))
    (rows, options), reserve = seen[0], resources.reserve
    labels = rows[torch.arange(len(rows))].labels
    assert refuses(labels, resources.task.refusals).tolist() == [True] * 5 + [False] * 5  # type: ignore[attr-defined]
    known = reserve[torch.arange(len(reserve))]
    assert set(rows[torch.arange(10)].inputs) <= set(known.inputs)
    assert options == {"steps": 3, "optimiser": ADAMW}
    assert equal(found, tuned(chat, rows, **options)) and not equal(found, chat)


def test_the_axis_is_the_aligned_models_and_the_midpoint_the_victims(chat: ChatVictim, resources: DefenderResources) -> None:
    aligned, victim = resources.reference[1], moved(chat, 9)  # type: ignore[index]
    refused = refuses(some(resources.reserve, 48).labels, resources.task.refusals)  # type: ignore[attr-defined]

    def means(model: Victim) -> tuple[Tensor, Tensor]:
        features = read(model, resources.reserve, "layer0").features
        return features[refused].mean(0), features[~refused].mean(0)

    axis, (high, low), (one, other) = axis_of(resources, "layer0", victim), means(aligned), means(victim)
    assert torch.allclose(axis.direction, (high - low) / (high - low).norm(), atol=1e-6)
    assert axis.restricted == pytest.approx(float(high @ axis.direction), rel=1e-4)
    assert axis.midpoint == pytest.approx(float((one + other) @ axis.direction) / 2, rel=1e-4)
    alone, started = axis_of(replace(resources, reference=None), "layer0", victim), means(chat)
    assert alone.restricted == pytest.approx(float(started[0] @ alone.direction), rel=1e-4)


@pytest.mark.parametrize(("strength", "raised"), [(1.0, 4.0), (0.5, 3.5), (0.0, 3.0)])
def test_only_prompts_beyond_the_midpoint_are_raised(strength: float, raised: float) -> None:
    hidden = torch.tensor([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0], [5.0, 7.0]])
    found = Axis(torch.tensor([1.0, 0.0]), 2.0, 4.0).clamped(hidden, strength)
    assert torch.equal(found, torch.tensor([[1.0, 7.0], [2.0, 7.0], [raised, 7.0], [5.0, 7.0]]))


def test_no_strength_is_the_victim_itself(chat: ChatVictim, resources: DefenderResources) -> None:
    assert DirectionalClamping("layer0", 0.0).at_inference(chat, resources) is chat
    clamped = DirectionalClamping("layer0", 1.0).at_inference(chat, resources)
    assert isinstance(clamped, Clamped) and clamped.bare() is chat


def strong(chat: ChatVictim, layer: str, prompts: list[Prompt]) -> Clamped:
    """Clamps half of the prompts, far."""
    draw = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(32, generator=draw), dim=0)
    with torch.no_grad():
        middle = float((chat.eval().features(prompts, layer) @ direction).median())
    return Clamped(chat, layer, Axis(direction, middle, 12.0), 1.0)


def greedy(victim: ChatVictim, prompts: list[Prompt], length: int) -> list[list[int]]:
    """Replies by whole passes without a cache: the last entry of `token_logits` predicts a token that is not there yet."""
    net: Any = victim.bare()
    begun, kept = net.padded([net.prompt_ids(prompt) for prompt in prompts])
    ids, width = torch.cat([begun, begun[:, :1]], 1), begun.shape[1]
    for _ in range(length):
        answer = (torch.arange(ids.shape[1]) >= width).expand_as(ids)
        mask = torch.cat([kept, torch.ones(len(ids), ids.shape[1] - width, dtype=torch.bool)], 1)
        with torch.no_grad():
            ids[:, -1] = victim.token_logits(Tokens(ids, mask, answer))[:, -1].argmax(-1)
        ids = torch.cat([ids, ids[:, :1]], 1)
    return ids[:, width:-1].tolist()


@pytest.mark.parametrize("layer", ["layer0", "layer1"])
def test_generation_with_a_cache_agrees_with_whole_passes(layer: str, chat: ChatVictim, toy_data: Any) -> None:
    prompts = [*some(toy_data.pools["shots"], 4).inputs, *some(toy_data.reserve, 8).inputs]
    chat = moved(chat, 4, 0.2)
    clamped = strong(chat, layer, prompts)
    said = [reply.text for reply in clamped.answers(prompts)]
    tokenizer, end = chat.tokenizer, chat.tokenizer.eos_token_id  # type: ignore[union-attr]
    written = [row[: row.index(end)] if end in row else row for row in greedy(clamped, prompts, 8)]
    assert said == [tokenizer.decode(row, skip_special_tokens=True).strip() for row in written]
    others = [reply.text for reply in chat.answers(prompts)]
    same = sum(one == other for one, other in zip(said, others, strict=True))
    assert 0 < same < len(prompts), "some are clamped, others not"
    assert not any(block._forward_hooks for block in chat.blocks.values())


def test_one_pass_and_all_tokens_agree(chat: ChatVictim, resources: DefenderResources) -> None:
    """`forward`, the first token of `token_logits` and the layer that is read see the same clamped state."""
    chat, batch = moved(chat, 4, 0.2), some(resources.train, 12)
    clamped = strong(chat, "layer0", batch.inputs)
    tokens = clamped.tokens(Batch(batch.inputs, ["it is"] * 12, batch.rows))
    with torch.no_grad(), evaluating(clamped):
        first = tokens.answer.long().argmax(1)
        logits = clamped.token_logits(tokens)[torch.arange(12), first]
        assert torch.allclose(logits, clamped(batch.inputs), atol=1e-5)
        before, after = chat.features(batch.inputs, "layer0"), clamped.features(batch.inputs, "layer0")
        assert torch.allclose(after, clamped.axis.clamped(before, 1.0))
        moved_rows = (after != before).any(1)
        assert torch.equal(moved_rows, before @ clamped.axis.direction > clamped.axis.midpoint) and 0 < moved_rows.sum() < 12
        assert torch.allclose(clamped(batch.inputs)[~moved_rows], chat(batch.inputs)[~moved_rows], atol=1e-6)
        assert not torch.allclose(clamped(batch.inputs)[moved_rows], chat(batch.inputs)[moved_rows], atol=1e-2)
