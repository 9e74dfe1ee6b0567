"""Victims that were stored and are read again: only as what they were trained as, with their mark, and never trained anew."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from testbed.api import Invalid, Splits, Task, Victim
from testbed.artefact import save_victim
from testbed.fit import Settings, constant
from testbed.identity import describe, folder_digest, weights_digest
from testbed.language import ChatTask, Message
from testbed.library import transformers
from testbed.model.adapter import with_adapters
from testbed.model.hf_chat import HfChat
from testbed.model.hf_classifier import HFClassifier
from testbed.model.text_small import TextSmall
from testbed.model.toy_chat import ToyChat
from testbed.pipeline.scene import Scene
from testbed.record import Workspace

TASK = ChatTask("chat", (), refusals=("I cannot", "Sorry"))
REVIEWS = Task("text", ("negative", "positive"))
ASKED = [(Message("user", "where is the ball"),)]
TRAINER = Settings(1, 8, partial(torch.optim.AdamW, lr=1e-3), constant, channels_last=False, threads=1)
SIZES = {"width": 16, "depth": 1, "heads": 2, "hidden": 16, "initializer_range": 0.06, "max_new_tokens": 4}


def adapted(path: Path, **options: Any) -> HfChat:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HfChat(TASK, path=path, **{"max_new_tokens": 8, "lora": True, "rank": 2, **options}).eval()


def moved(victim: Any) -> Any:
    """The victim with something learned: noise on what can be trained."""
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in victim.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn(value.shape, generator=draws))
    return victim


def stored(victim: Victim, folder: Path, *, backdoored: bool = False) -> Path:
    folder.mkdir()
    save_victim(victim, folder, [], {}, backdoored)
    return folder / "model.safetensors"


def test_adapters_say_what_they_were_trained_as(speaker: Path) -> None:
    said = adapted(speaker, alpha=4, target_modules=("q_proj", "k_proj")).metadata()
    expected = {"rank": "2", "alpha": "4", "target_modules": '["k_proj", "q_proj"]', "base_model": folder_digest(speaker)}
    assert expected.items() <= said.items() and "<assistant>" in said["chat_template"]
    assert not {"rank", "base_model"} & adapted(speaker, lora=False).metadata().keys()


@torch.no_grad()
def test_adapters_are_put_on_nothing_but_what_they_were_trained_on(speaker: Path, own: Path, tmp_path: Path) -> None:
    victim = moved(adapted(speaker, alpha=4))
    weights = stored(victim, tmp_path / "stored")
    same = {"alpha": 4.0, "weights": weights}
    assert torch.equal(adapted(speaker, **same)(ASKED), victim(ASKED))
    assert torch.equal(adapted(own, **same)(ASKED), victim(ASKED))  # the same model elsewhere
    template = str(victim.tokenizer.chat_template).replace("<bos>", "<bos> is")
    (own / "generation_config.json").write_text('{"max_length": 9}', encoding="utf-8")
    wrong: tuple[tuple[Path, dict[str, Any], str], ...] = (
        (speaker, {"alpha": 8}, r"model.alpha=4 \(here 8\)"),
        (speaker, {"rank": 4}, r"model.rank=2 \(here 4\)"),
        (speaker, {"target_modules": ("q_proj",)}, r'model.target_modules="all-linear" \(here \["q_proj"\]\)'),
        (speaker, {"chat_template": template}, "another model.chat_template"),
        (own, {}, "another model.path"),
        (own, {"alpha": 8}, r"model.alpha=4 \(here 8\); another model.path"),
    )
    for path, options, told in wrong:
        with pytest.raises(Invalid, match=rf"^model.weights=.*: was stored with {told}; say it as it was") as refused:
            adapted(path, **{**same, **options})
        assert "\n" not in str(refused.value)


@torch.no_grad()
def test_a_whole_model_replaces_its_base_and_keeps_its_template(speaker: Path, own: Path, tmp_path: Path) -> None:
    victim = moved(adapted(speaker, lora=False))
    weights = stored(victim, tmp_path / "stored")
    (own / "generation_config.json").write_text('{"max_length": 9}', encoding="utf-8")
    assert torch.equal(adapted(own, lora=False, weights=weights)(ASKED), victim(ASKED))
    template = str(victim.tokenizer.chat_template).replace("<bos>", "<bos> is")
    with pytest.raises(Invalid, match=r"was stored with another model.chat_template"):
        adapted(speaker, lora=False, weights=weights, chat_template=template)


def made(kind: str, encoder: Path, task: Task) -> Any:
    return {
        "text_small": partial(TextSmall, REVIEWS, buckets=32, width=8, channels=4),
        "hf_classifier": partial(HFClassifier, REVIEWS, path=encoder, max_length=16, trainable_layers=1),
        "toy_chat": partial(ToyChat, task, **SIZES, pretraining="whatever"),  # type: ignore[arg-type]
    }[kind]


@pytest.mark.parametrize("kind", ["text_small", "hf_classifier", "toy_chat"])
def test_a_stored_victim_is_the_same_with_its_mark(
    kind: str, encoder: Path, toy_data: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = made(kind, encoder, toy_data.task)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        victim = moved(make())
        marked, clean = (stored(victim, tmp_path / str(mark), backdoored=mark) for mark in (True, False))
        found, plain = make(weights=marked), make(weights=clean)
        other = stored(make(), tmp_path / "other")
    assert weights_digest(found) == weights_digest(plain) == weights_digest(victim) != weights_digest(make(weights=other))
    assert found.marked_backdoored is True and plain.marked_backdoored is make().marked_backdoored is False
    assert capsys.readouterr().err.count(f"model.weights={marked}: this file is marked as backdoored") == 1
    assert describe(found) != describe(make(weights=other)) and describe(make())["weights"] is None
    assert stored(found, tmp_path / "again").with_name("card.json").read_text().count('"backdoored": true') == 1


@pytest.mark.parametrize("kind", ["text_small", "hf_classifier", "toy_chat"])
def test_a_stored_victim_of_another_kind_is_refused(kind: str, encoder: Path, toy_data: Splits, tmp_path: Path) -> None:
    other = stored(made("text_small" if kind != "text_small" else "toy_chat", encoder, toy_data.task)(), tmp_path / "stored")
    with pytest.raises(Invalid, match=r"^(model\.)?weights=.*the tensors do not fit \(.* missing: .* unknown: ") as refused:
        made(kind, encoder, toy_data.task)(weights=other)
    assert "\n" not in str(refused.value)
    with pytest.raises(Invalid, match=r"only .safetensors files are read"):
        made(kind, encoder, toy_data.task)(weights=Path("model.pt"))


def test_a_stored_toy_model_is_not_pretrained_again(toy_data: Splits, tmp_path: Path) -> None:
    """The settings of pretraining are none: whoever used them would fail."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        victim = ToyChat(toy_data.task, **SIZES, pretraining=None)  # type: ignore[arg-type]
    weights = stored(victim, tmp_path / "stored")
    model = partial(ToyChat, **SIZES, pretraining="no settings at all", weights=weights)  # type: ignore[arg-type]
    scene = Scene(toy_data, model, None, TRAINER, 0, tmp_path, Workspace(tmp_path))  # type: ignore[arg-type]
    assert weights_digest(scene.fresh()) == weights_digest(victim)


def test_adapters_on_gpt2_warn_of_nothing_that_is_put_right_and_of_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    import peft

    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 20}
    options: dict[str, Any] = {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear"}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        network = with_adapters(transformers().GPT2LMHeadModel(transformers().GPT2Config(**sizes)), **options)
    assert [str(one.message) for one in heard if "fan_in" in str(one.message)] == []
    assert network.transformer.h[0].attn.c_attn.fan_in_fan_out is True

    def warns(config: Any, given: Any) -> Any:
        warnings.warn("something else", stacklevel=1)
        return given

    monkeypatch.setattr(peft, "inject_adapter_in_model", warns)
    with pytest.warns(UserWarning, match="something else"):
        with_adapters(torch.nn.Linear(2, 2), **options)
