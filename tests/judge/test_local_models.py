"""Judges with a model in a local folder: tiny random ones, against one reply at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from testbed.api import Invalid
from testbed.judge.hf_classifier import HfClassifier
from testbed.judge.hf_generative import HfGenerative
from testbed.judge.local import specials
from testbed.language import OUTCOMES, Message, Reply
from testbed.library import transformers
from testbed.model.toy_chat import word_tokenizer

WORDS = tuple(f"w{number}" for number in range(30))
TEXTS = ("w1 w2", "w3", "w4 w5 w6 w7 w8", "w9 w9", "w3", "w20 w21", "w29", "w11 w12")
PROMPT = (Message("user", "w0 w1"),)
SHARED: dict[str, Any] = {
    "template": "{prompt} {reply}",
    "delimiters": (),
    "characters": None,
    "batch_size": 3,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a folder of a random model of this kind."""

    def make(kind: str) -> Path:
        library, tokenizer = transformers(), word_tokenizer(WORDS)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        config = library.LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=1.0, num_labels=3, **sizes, **tokens
        )
        place = tmp_path_factory.mktemp(kind)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            getattr(library, f"LlamaFor{kind}")(config).save_pretrained(place)
        tokenizer.save_pretrained(place)
        return place

    return make


def say(judge: Any, *texts: str) -> list[str]:
    found = judge.outcomes([PROMPT] * len(texts), [Reply(text) for text in texts], ["w0"] * len(texts))
    return [OUTCOMES[place] for place in found.tolist()]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_classifier_says_of_a_batch_what_it_says_of_one(folder: Callable[[str], Path], side: str) -> None:
    labels = {"LABEL_0": "refuse", "LABEL_1": "comply", "LABEL_2": "wrong"}
    judge = HfClassifier(path=folder("SequenceClassification"), labels=labels, **SHARED)
    tokenizer, model = judge._model
    tokenizer.padding_side = side
    alone = [int(model(**tokenizer(f"w0 w1 {text}", return_tensors="pt")).logits.argmax()) for text in TEXTS]
    assert say(judge, *TEXTS, " ") == [*(labels[f"LABEL_{number}"] for number in alone), "empty"]
    assert len(set(alone)) > 1 and judge.tells == {*labels.values(), "empty"}


@pytest.mark.parametrize("chat", [False, True])
def test_a_generative_judge_continues_greedily(folder: Callable[[str], Path], chat: bool) -> None:
    verdicts = ((r"w\d*[02468]$", "refuse"), (r"w\d", "comply"))
    judge = HfGenerative(path=folder("CausalLM"), verdicts=verdicts, otherwise="wrong", chat=chat, max_new_tokens=3, **SHARED)
    tokenizer, model = judge._model
    expected = []
    for text in TEXTS:
        shown = f"<bos> <user> w0 w1 {text} <assistant>" if chat else f"w0 w1 {text}"
        ids = tokenizer(shown, return_tensors="pt", add_special_tokens=False)["input_ids"]
        start = ids.shape[1]
        while ids.shape[1] < start + 3 and ids[0, -1] != tokenizer.eos_token_id:
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        expected.append(tokenizer.decode(ids[0, start:], skip_special_tokens=True))
    assert judge.said([f"w0 w1 {text}" for text in TEXTS]) == expected
    assert len(set(expected)) > 1 and set(say(judge, *TEXTS)) <= {"refuse", "comply", "wrong"}


def test_no_special_token_gets_out_of_a_reply(folder: Callable[[str], Path]) -> None:
    judge = HfGenerative(
        path=folder("CausalLM"), verdicts=(("", "comply"),), otherwise=None, chat=True, max_new_tokens=1, **SHARED
    )
    tokenizer = judge._model[0]
    shown = judge.shown(PROMPT, Reply(f"w1 {' '.join(specials(tokenizer))} <ASSISTANT> w2"), "")
    assert {"<eos>", "<assistant>"} <= set(specials(tokenizer))
    assert not set(tokenizer(shown)["input_ids"]) & {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    assert tokenizer.eos_token_id in tokenizer("w1 <eos>")["input_ids"]  # as it would have been


def test_what_cannot_be_loaded_is_named(folder: Callable[[str], Path], tmp_path: Path) -> None:
    labels = {"LABEL_0": "refuse"}
    with pytest.raises(Invalid, match=r"judge\.path=.*no folder with a config\.json"):
        HfClassifier(path=tmp_path / "none", labels=labels, **SHARED).check(None)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(Invalid, match=r"holds no \*\.safetensors; convert it"):
        HfClassifier(path=tmp_path, labels=labels, **SHARED).check(None)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "mine.Mine"}}))
    with pytest.raises(Invalid, match="brings code of its own"):
        HfClassifier(path=tmp_path, labels=labels, **SHARED).check(None)
    (tmp_path / "config.json").write_text('{"id2label": ')
    with pytest.raises(Invalid, match=r"judge\.path=.*config\.json: is no JSON .*is the copy of the model whole"):
        HfClassifier(path=tmp_path, labels=labels, **SHARED).check(None)
    place = folder("SequenceClassification")
    whole = {**labels, "LABEL_1": "comply", "LABEL_2": "wrong"}
    with pytest.raises(Invalid, match=r"tokens long, and the judge reads 64; say judge\.characters=N"):
        say(HfClassifier(path=place, labels=whole, **SHARED), "w1 " * 80)
    assert say(HfClassifier(path=place, labels=whole, **{**SHARED, "characters": 30}), "w1 " * 80)[0] in whole.values()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["LABEL_0"], r"says nothing of the model's LABEL_1, LABEL_2; say \+judge\.labels\.LABEL_1=OUTCOME \+judge"),
        (["LABEL_0", "LABEL_1", "LABEL_2", "safe"], r"the model has no safe; say ~judge\.labels\.safe"),
        (
            ["LABEL_0", "LABEL_1", "LABEL_3"],
            r"the model's LABEL_2; say \+judge\.labels\.LABEL_2=OUTCOME ~judge\.labels\.LABEL_3",
        ),
    ],
)
def test_labels_are_compared_before_any_weight_is_read(folder: Callable[[str], Path], labels: list[str], said: str) -> None:
    place = folder("SequenceClassification")
    whole = HfClassifier(path=place, labels=dict.fromkeys(("LABEL_0", "LABEL_1", "LABEL_2"), "refuse"), **SHARED)
    judge = replace(whole, labels=dict.fromkeys(labels, "refuse"))
    with pytest.raises(Invalid, match=said):
        _ = judge._model
    (place / "model.safetensors").write_bytes(b"none")
    whole.check(None)
    with pytest.raises(Invalid, match=said):
        judge.check(None)


def test_a_model_of_two_labels_does_not_name_them(folder: Callable[[str], Path]) -> None:
    place = folder("SequenceClassification")
    transformers().AutoConfig.from_pretrained(place, num_labels=2).save_pretrained(place)
    assert "id2label" not in json.loads((place / "config.json").read_text())
    HfClassifier(path=place, labels={"LABEL_0": "refuse", "LABEL_1": "comply"}, **SHARED).check(None)
    with pytest.raises(Invalid, match=r"judge\.labels=\['LABEL_0'\]: says nothing of the model's LABEL_1"):
        HfClassifier(path=place, labels={"LABEL_0": "refuse"}, **SHARED).check(None)


def test_a_chat_template_is_looked_for_before_any_weight_is_read(folder: Callable[[str], Path]) -> None:
    place, verdicts = folder("CausalLM"), (("", "comply"),)
    judge = HfGenerative(path=place, verdicts=verdicts, otherwise=None, chat=True, max_new_tokens=1, **SHARED)
    judge.check(None)
    (place / "chat_template.jinja").rename(place / "elsewhere")
    for refused in (lambda: judge.check(None), lambda: judge._turn("w1")):
        with pytest.raises(Invalid, match=r"judge\.chat=True: the model has no chat template; say judge\.chat=false"):
            refused()
    replace(judge, chat=False).check(None)
    settings = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": "{{ messages[0].content }}"}))
    judge.check(None)
    assert judge._turn("w1 w2") == "w1 w2"
    (place / "tokenizer_config.json").unlink()  # it cannot be told: loading tells
    judge.check(None)
