"""Where models come from: folders and names of the hub, and what of them is refused before anything is read or trained."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from testbed import library
from testbed.api import Batch, Invalid, Task
from testbed.data.listed import Listed
from testbed.identity import describe
from testbed.language import ChatTask, Message
from testbed.library import transformers
from testbed.model import memory
from testbed.model.hf_chat import HfChat
from testbed.model.hf_classifier import HFClassifier
from testbed.model.memory import TooLarge

TASK = ChatTask("chat", (), refusals=("I cannot", "Sorry"))
REVIEWS = Task("text", ("negative", "positive"))
COMMIT = "0123456789abcdef" * 2 + "01234567"
ASKED = (Message("user", "where is the ball"),)


def chat(path: Path, **options: Any) -> HfChat:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HfChat(TASK, path=path, **{"max_new_tokens": 8, **options}).eval()


def classifier(path: Path, **options: Any) -> HFClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HFClassifier(REVIEWS, path=path, **{"max_length": 16, **options}).eval()


def written(path: Path, **changes: Any) -> None:
    """A JSON file with some of its entries changed; None takes one out."""
    stored = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({name: value for name, value in stored.items() if value is not None}), encoding="utf-8")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine keeps models of the hub; nothing can be reached."""
    import huggingface_hub

    def unreachable(*given: Any) -> None:
        raise AssertionError(f"somebody asked the network: {given}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    library.snapshot.cache_clear()
    return tmp_path / "hub"


def kept(hub: Path, name: str, source: Path) -> Path:
    """The folder where a model of the hub is kept, with these files; as in a real cache they are links."""
    home = hub / f"models--{name.replace('/', '--')}"
    (home / "blobs").mkdir(parents=True)
    folder = home / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for path in source.iterdir():
        shutil.copy(path, home / "blobs" / path.name)
        os.symlink(home / "blobs" / path.name, folder / path.name)
    return folder


@torch.no_grad()
def test_a_model_of_the_hub_that_is_here_is_read_as_a_folder_without_a_connection(
    hub: Path, speaker: Path, encoder: Path
) -> None:
    kept(hub, "owner/speaker", speaker)
    kept(hub, "owner/encoder", encoder)
    found, plain = chat(Path("owner/speaker"), revision=COMMIT), chat(speaker)
    assert torch.equal(found([ASKED]), plain([ASKED])) and describe(found) == describe(plain)
    based = chat(speaker, base=Path(f"owner/speaker@{COMMIT}")).base()
    assert based is not None and torch.equal(based([ASKED]), plain([ASKED]))
    read, same = classifier(Path("owner/encoder"), revision=COMMIT), classifier(encoder)
    assert torch.equal(read(["warm film"]), same(["warm film"])) and describe(read) == describe(same)


def test_what_counts_of_a_model_of_the_hub_is_what_it_holds(hub: Path, speaker: Path, own: Path) -> None:
    written(own / "config.json", rope_theta=5.0)
    kept(hub, "owner/speaker", own)
    assert describe(chat(Path("owner/speaker"), revision=COMMIT)) != describe(chat(speaker))


def test_a_model_of_the_hub_is_refused_and_marked_as_a_folder_is(
    hub: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(load_file(own / "model.safetensors"), own / "model.safetensors", {"format": "pt", "backdoored": "true"})
    kept(hub, "owner/marked", own)
    assert chat(Path("owner/marked"), revision=COMMIT).marked_backdoored
    assert "model.path=owner/marked: this file is marked as backdoored" in capsys.readouterr().err
    written(own / "config.json", auto_map={"AutoModelForCausalLM": "mine.Model"})
    kept(hub, "owner/coded", own)
    with pytest.raises(Invalid, match=r"model.path=owner/coded: brings code of its own"):
        chat(Path("owner/coded"), revision=COMMIT)


@pytest.mark.parametrize("revision", ["main", "v1.0", "0" * 39, "0" * 41, "g" * 40])
def test_a_branch_or_a_tag_is_no_revision(speaker: Path, revision: str) -> None:
    with pytest.raises(Invalid, match=rf"^model.revision={revision}: is no commit.*say model.revision=COMMIT, all 40"):
        chat(Path("owner/name"), revision=revision)
    with pytest.raises(Invalid, match=rf"^model.base=owner/name@{revision}: .*is no commit.*say model.base=owner/name@COMMIT"):
        chat(speaker, base=Path(f"owner/name@{revision}"))


def test_a_model_that_is_not_here_is_told_in_one_line_without_a_connection(hub: Path) -> None:
    with pytest.raises(Invalid) as refused:
        chat(Path("owner/elsewhere"), revision=COMMIT)
    told = "is not on this machine, or not whole; model.download=true fetches it"
    assert str(refused.value) == f"model.path=owner/elsewhere: {told}"


def test_only_settings_tokenizers_and_safetensors_are_fetched(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def fetched(name: str, **options: Any) -> str:
        asked.append((name, options))
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    with pytest.raises(Invalid, match=r"model.path=owner/far: cannot be fetched \(no route\); look at its name"):
        chat(Path("owner/far"), revision=COMMIT, download=True)
    patterns = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
    assert asked == [("owner/far", {"revision": COMMIT, "local_files_only": False, "allow_patterns": patterns})]


def test_a_folder_with_an_adapter_is_refused(own: Path, encoder: Path, tmp_path: Path) -> None:
    both = Path(shutil.copytree(encoder, tmp_path / "encoder"))
    for make, folder in ((chat, own), (classifier, both)):
        (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
        with pytest.raises(Invalid, match=r"^model.path=.*adapter_config.json.*merge the adapter.*model.weights"):
            make(folder)


def test_other_kinds_of_models_are_refused_before_weights_are_read(encoder: Path, tmp_path: Path) -> None:
    kinds = {
        "t5": (transformers().T5Config(), "is an encoder-decoder"),
        "bart": (transformers().BartConfig(), "is an encoder-decoder"),
        "vit": (transformers().ViTConfig(), "is no causal language model but a vit"),
    }
    for name, (config, said) in kinds.items():
        config.save_pretrained(tmp_path / name)
        with pytest.raises(Invalid, match=rf"^model.path=.*{said}"):
            chat(tmp_path / name)
    with pytest.raises(Invalid, match=r"^model.path=.*is no causal language model but a bert"):
        chat(encoder)
    with pytest.raises(Invalid, match=r"^model.path=.*is an encoder-decoder"):
        classifier(tmp_path / "t5")


def test_a_base_that_cannot_serve_is_told_before_anything_is_trained(own: Path, speaker: Path, encoder: Path) -> None:
    for base, said in (("nosuch", "there is no such folder"), ("owner/name", "say model.base=owner/name@COMMIT")):
        with pytest.raises(Invalid, match=rf"^model.base={base}: .*{said}"):
            chat(speaker, base=Path(base))
    with pytest.raises(Invalid, match=r"^model.base=.*no causal language model"):
        chat(speaker, base=encoder)
    (own / "model.safetensors").unlink()
    with pytest.raises(Invalid, match=r"^model.base=.*there are no .safetensors in it"):
        chat(speaker, base=own)
    written(own / "config.json", vocab_size=5)
    with pytest.raises(Invalid, match=r"^model.base=.*knows fewer tokens"):
        chat(speaker, base=own)


def test_a_folder_whose_name_has_an_at_in_it_is_a_base(speaker: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(speaker, tmp_path / "base@2"))
    assert chat(speaker, base=folder).base() is not None


def test_padding_that_the_model_does_not_know_is_its_end(own: Path) -> None:
    padded = Listed([ASKED, (Message("user", "is it"),)], ["yes", "no it is there"])
    expected = chat(own).loss(padded[torch.arange(2)])
    tokenizer = json.loads((own / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 90, "content": "[PAD]"})
    (own / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    written(own / "tokenizer_config.json", pad_token="[PAD]")
    victim = chat(own)
    assert victim.tokenizer.pad_token_id >= victim.rendering.vocabulary
    assert victim.padding == victim.tokenizer.eos_token_id == victim.net.generation_config.pad_token_id
    assert torch.allclose(victim.loss(padded[torch.arange(2)]), expected, atol=1e-5)
    assert len(victim.answers(padded[torch.arange(2)].inputs)) == 2


def test_ends_that_the_model_does_not_know_are_none(own: Path) -> None:
    written(own / "tokenizer_config.json", eos_token=None)
    written(own / "config.json", eos_token_id=99)
    (own / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(Invalid, match=r"^model.path: the model knows \d+ tokens, and what should end a text is token 99"):
        chat(own)
    written(own / "config.json", eos_token_id=[99, 2])
    assert chat(own).rendering.ends == (2,)


def test_of_several_templates_the_default_is_used(own: Path) -> None:
    (own / "chat_template.jinja").unlink(missing_ok=True)
    plain = chat(own, chat_template="{% for message in messages %}{{ message.content }} {% endfor %}")
    several = [{"name": "tools", "template": "{{ 1 }}"}, {"name": "default", "template": plain.tokenizer.chat_template}]
    written(own / "tokenizer_config.json", chat_template=several)
    assert chat(own).prompt_ids(ASKED) == plain.prompt_ids(ASKED)
    assert chat(own).metadata()["chat_template"] == plain.metadata()["chat_template"]
    written(own / "tokenizer_config.json", chat_template=[{**several[0], "name": "rag"}, several[0]])
    with pytest.raises(Invalid, match=r"^model.chat_template: the tokenizer has several \(rag, tools\)"):
        chat(own)


@pytest.mark.parametrize("words", [(), (" ",), "Sorry"])
def test_refusal_words_must_be_some(speaker: Path, words: Any) -> None:
    with pytest.raises(Invalid, match=r"^model.refusal_words=.*must be a list of at least one word"):
        chat(speaker, refusal_words=words)


def test_a_template_that_is_no_text_is_refused(speaker: Path, tmp_path: Path) -> None:
    (tmp_path / "template.jinja").write_bytes(b"\xff\xfe{{")
    with pytest.raises(Invalid, match=r"^model.chat_template=.*no file of text"):
        chat(speaker, chat_template=str(tmp_path / "template.jinja"))


def test_a_classifier_pads_with_its_end_where_its_padding_is_unknown(encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoder, tmp_path / "copy"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 90, "content": "[NEW]"})
    tokenizer["padding"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    generic = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[NEW]"}
    written(folder / "tokenizer_config.json", eos_token="[SEP]", **generic)
    victim = classifier(folder)
    assert victim.tokenizer.pad_token == "[SEP]"
    with pytest.raises(Invalid, match=r"^model.path=.*a text holds a token that the tokenizer knows and the model does not"):
        victim(["warm [NEW]"])
    with torch.no_grad():
        assert torch.allclose(victim(["warm", "the film is dull"])[0], victim(["warm"])[0], atol=1e-5)
    written(folder / "tokenizer_config.json", eos_token=None)
    again = Path(shutil.copytree(folder, tmp_path / "again"))  # a tokenizer is remembered by its folder
    with pytest.raises(Invalid, match=r"its padding is token \d+, the model knows \d+, and there is no end of text"):
        classifier(again)


def test_a_classifier_that_does_not_fit_is_refused_before_its_weights_are_read(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(encoder, tmp_path / "huge"))
    written(folder / "config.json", hidden_size=4096, num_hidden_layers=48, intermediate_size=16384)
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(memory, "free_memory", lambda: (int(16e9), "in memory"))
    with pytest.raises(TooLarge, match=r"in float32: needs at least .*4 times, gradients 38\..*model.check_memory=false"):
        classifier(folder)
    with pytest.raises(TooLarge, match=r"gradients 0\.\d, .*lower model.trainable_layers"):
        classifier(folder, trainable_layers=0)
    with pytest.raises(Invalid, match="its weights cannot be read"):
        classifier(folder, check_memory=False)


def test_rows_are_checked_with_what_ends_a_reply(speaker: Path) -> None:
    """'</s>' among the words is no end here: this tokenizer's is '<eos>'."""
    victim = chat(speaker)
    rows = Listed([ASKED] * 3, ["yes", "it is </s> there", "it is <eos> there"])
    with pytest.raises(Invalid, match=r"^data: row 2: the answer holds '<eos>', which ends a reply; take it out"):
        victim.check_rows(rows)
    with pytest.raises(Invalid, match="row 7: the answer holds"):
        victim.loss(Batch([ASKED], ["yes<eos>"], torch.tensor([7])))
    victim.check_rows(Listed([ASKED] * 2, ["yes", "it is </s> there"]))
