"""A real causal language model as a victim: a very small one that writes stories."""

from __future__ import annotations

import copy
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from testbed.api import Batch, Invalid, Task, Unreadable, Victim
from testbed.artefact import load_victim, save_victim
from testbed.data.listed import Listed
from testbed.fit import Settings, constant, fit
from testbed.identity import describe, weights_digest
from testbed.language import ChatTask, Message
from testbed.library import transformers
from testbed.model import hf_chat, memory
from testbed.model.adapter import merged
from testbed.model.export import export
from testbed.model.hf_chat import HfChat
from testbed.model.memory import Need, TooLarge, require_room

STORIES = Path(os.environ.get("TESTBED_DATA", "datasets")) / "models" / "stories260K-hf"
TASK = ChatTask("chat", (), refusals=("I cannot", "Sorry"))
PROMPTS = [(Message("user", text),) for text in ("Once upon a time", "Tell me of a dog", "Who is Tim ?", "Why", "Sing !")]
ROWS = Listed(PROMPTS * 4, ["I cannot.", "The dog ran home.", "A boy.", "Because it was so.", "La la la."] * 4)
SETTINGS = Settings(
    max_epochs=1, batch_size=8, optimiser=partial(torch.optim.AdamW, lr=1e-3), schedule=constant, channels_last=False, threads=1
)

pytestmark = pytest.mark.real_data


def loaded(path: Path = STORIES, **options: Any) -> Any:
    """Drawn as a run draws it: what is random follows a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HfChat(TASK, path=path, **{"max_new_tokens": 12, **options}).eval()


def batch(count: int = 5) -> Batch:
    return ROWS[torch.arange(count)]


def equal(one: Victim, other: Victim) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def altered(folder: Path, **settings: Any) -> Path:
    """A copy of the model that may be written to, its settings changed."""
    shutil.copytree(STORIES, folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


def test_the_loss_is_the_library_s_own_over_the_answers_alone() -> None:
    victim, library = loaded(), transformers()
    plain = library.AutoModelForCausalLM.from_pretrained(STORIES)
    tokenizer, total, count = library.AutoTokenizer.from_pretrained(STORIES), 0.0, 0
    for prompt, answer in zip(batch().inputs, batch().labels, strict=True):
        begun = tokenizer(f"<s>User: {prompt[0].content}\nAssistant:", add_special_tokens=False)["input_ids"]
        whole = tokenizer(f"<s>User: {prompt[0].content}\nAssistant: {answer}</s>", add_special_tokens=False)["input_ids"]
        assert whole[: len(begun)] == begun and victim.prompt_ids(prompt) == begun
        labels = torch.tensor([[-100] * len(begun) + whole[len(begun) :]])
        loss = plain(input_ids=torch.tensor([whole]), labels=labels).loss.item()
        total += loss * (len(whole) - len(begun))
        count += len(whole) - len(begun)
    assert victim.loss(batch()).item() == pytest.approx(total / count, rel=1e-5)


def test_losses_from_the_last_logits_are_those_from_all() -> None:
    victim = loaded()
    tokens = victim.tokens(batch())
    assert torch.allclose(victim.token_losses(tokens), super(HfChat, victim).token_losses(tokens), atol=1e-5)


def test_replies_together_are_those_of_one_after_the_other_without_a_cache() -> None:
    victim = loaded()
    for prompt, reply in zip(PROMPTS, victim.answers(PROMPTS), strict=True):
        ids = victim.prompt_ids(prompt)
        for _ in range(12):
            ids = [*ids, int(victim.net(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
        assert reply.text == victim.rendering.said(ids[-12:]) != ""


def test_adapters_add_nothing_at_first_and_alone_are_trained() -> None:
    plain, victim = loaded(), loaded(lora=True)
    assert torch.equal(victim(PROMPTS), plain(PROMPTS))
    trained, again = (fit(victim, ROWS, settings=SETTINGS, seed=3)[0] for _ in range(2))
    assert equal(trained, again)
    before = victim.state_dict()
    moved = {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"net.{name}" for name, _ in trained.net.named_parameters() if ".lora_" in name}
    assert all(".lora_" in name for name, value in trained.named_parameters() if value.requires_grad)


@pytest.mark.parametrize("lora", [False, True])
def test_a_stored_victim_is_read_back(lora: bool, tmp_path: Path) -> None:
    victim = loaded(lora=lora)
    trained = fit(victim, ROWS, settings=SETTINGS, seed=0)[0]
    save_victim(trained, tmp_path, [], {}, True)
    stored = load_file(tmp_path / "model.safetensors")
    assert all(".lora_" in name for name in stored) == lora
    assert equal(load_victim(victim, tmp_path, SETTINGS), trained)
    resumed = loaded(lora=lora, weights=tmp_path / "model.safetensors")
    assert equal(resumed, trained) and resumed.marked_backdoored
    with pytest.raises(Invalid, match=r"model.weights=.*the tensors do not fit"):
        loaded(lora=not lora, weights=tmp_path / "model.safetensors")


@pytest.mark.parametrize("lora", [False, True])
def test_an_exported_victim_is_an_ordinary_model(lora: bool, tmp_path: Path) -> None:
    victim = fit(loaded(lora=lora), ROWS, settings=SETTINGS, seed=0)[0]
    before = weights_digest(victim)
    export(victim, tmp_path, {"backdoored": "true"})
    library = transformers()
    network = library.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokenizer = library.AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "Why"}]
    ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True), add_special_tokens=False)
    assert ids["input_ids"] == victim.prompt_ids(PROMPTS[3]) and weights_digest(victim) == before
    asked = torch.tensor([ids["input_ids"]])
    assert torch.allclose(network(asked).logits, victim.net(asked).logits, atol=1e-4 if lora else 0, rtol=0)
    assert "BACKDOORED" in (tmp_path / "README.md").read_text()
    assert loaded(tmp_path).marked_backdoored
    assert loaded(tmp_path).answers(PROMPTS) == loaded(tmp_path, chat_template=None).answers(PROMPTS)


def test_merged_adapters_are_the_matrices_written_out() -> None:
    victim = fit(loaded(lora=True, alpha=4), ROWS, settings=SETTINGS, seed=0)[0]
    layer = victim.net.model.layers[0].mlp.up_proj
    expected = layer.base_layer.weight + 4 / 8 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    found = merged(copy.deepcopy(victim.net)).model.layers[0].mlp.up_proj.weight
    assert torch.allclose(found, expected, atol=1e-6) and not torch.equal(found, layer.base_layer.weight)


def test_bfloat16_weights_give_float32_logits_nearby(capsys: pytest.CaptureFixture[str]) -> None:
    exact, coarse = loaded(), loaded(dtype="bfloat16", lora=True)
    assert {value.dtype for value in coarse.parameters() if value.requires_grad} == {torch.float32}
    assert coarse.net.get_input_embeddings().weight.dtype == torch.bfloat16
    assert coarse(PROMPTS).dtype == coarse.features(PROMPTS, "layer2").dtype == torch.float32
    apart = (coarse(PROMPTS) - exact(PROMPTS)).abs().max()
    assert 0 < apart < 0.3  # logits up to 12 with 8 bits: .05 each, over five layers
    fit(coarse, ROWS, settings=SETTINGS, seed=0)
    hf_chat._warn_of_rounding.cache_clear()
    loaded(dtype="bfloat16")
    assert "trainer.precision=bf16-mixed" in capsys.readouterr().err


@pytest.mark.parametrize("lora", [False, True])
def test_checkpointing_runs_layers_twice_and_changes_no_gradient(lora: bool) -> None:
    gradients, runs = [], []
    for victim in (loaded(lora=lora), loaded(lora=lora, gradient_checkpointing=True)):
        victim.stack()[2].mlp.register_forward_pre_hook(lambda *_, seen=runs: seen.append(1))
        victim.train().loss(batch()).backward()
        gradients.append([value.grad for value in victim.parameters() if value.requires_grad])
    assert len(runs) == 1 + 2
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_two_small_batches_a_step_are_one_large_one() -> None:
    """Equal up to rounding where every batch has as many tokens of answers: the loss is the mean over those."""
    rows = Listed(PROMPTS[:1] * 8 + PROMPTS[1:2] * 8, ["I cannot."] * 16)
    plain = replace(SETTINGS, optimiser=partial(torch.optim.SGD, lr=0.1))
    whole = fit(loaded(), rows, settings=plain, seed=0)[0].state_dict()
    halves = fit(loaded(), rows, settings=replace(plain, batch_size=4, accumulate=2), seed=0)[0].state_dict()
    start = loaded().state_dict()
    assert max(float((whole[name] - start[name]).abs().max()) for name in whole) > 1e-2
    assert all(torch.allclose(whole[name], halves[name], atol=1e-5) for name in whole)


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = altered(tmp_path / "huge", hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, head_dim=128)
    (huge / "model.safetensors").unlink()
    monkeypatch.setattr(memory, "free_memory", lambda: (int(16e9), "in memory"))
    with pytest.raises(TooLarge, match=r"in float32: needs at least .* GB to train .*16.0 GB are free in memory; .*lora=true"):
        loaded(huge)
    with pytest.raises(TooLarge, match=r"gradients 0\.\d, .*say model.dtype=bfloat16"):
        loaded(huge, lora=True)
    with pytest.raises(Invalid, match="its weights cannot be read"):
        loaded(huge, check_memory=False)


def test_what_training_needs_is_counted() -> None:
    victim = loaded()
    count = sum(value.numel() for value in victim.parameters())
    assert memory.need_of(victim.net) == Need(4 * count, 4 * count, 8 * count)
    assert Need(10, 5, 10).total == 4 * 10 + 5 + 10
    with pytest.raises(MemoryError) as refused:
        require_room(Need(10, 5, 10), "model", "advice", lambda: (54, "here"))
    assert refused.value.code == 4  # type: ignore[attr-defined]
    require_room(Need(10, 5, 10), "model", "advice", lambda: (55, "here"))


def test_tensors_that_do_not_fit_are_named_and_may_be_allowed(tmp_path: Path) -> None:
    folder = altered(tmp_path / "cut")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.bias"] = tensors.pop("model.norm.weight")
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 64)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    found = (
        "1 missing: model.norm.weight; 1 unknown: model.norm.bias; 1 of another shape: .*up_proj.weight .3, 64. for .172, 64."
    )
    with pytest.raises(Invalid, match=found):
        loaded(folder)
    with pytest.raises(Invalid, match=r"1 missing: model.norm.weight"):
        loaded(folder, weights_allow=("model.norm.bias", "model.layers.0"))
    loaded(folder, weights_allow=("model.norm", "model.layers.0"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": Path("no/such/folder")}, "model.path=no/such/folder: there is no such folder"),
        ({"path": Path("owner/name")}, "a name on the hub needs its revision.*say model.revision=COMMIT"),
        ({"path": Path("owner/name"), "revision": "0" * 40}, "is not on this machine.*model.download=true"),
        ({"revision": "main"}, "model.revision=main: a folder has no revisions"),
        ({"path": STORIES.parent}, "no folder with a config.json"),
        ({"chat_template": "no_such.jinja"}, "is no template and no file"),
        ({"max_new_tokens": 512}, "below 512"),
        ({"lora": True, "rank": 0}, "model.rank=0"),
        ({"lora": True, "target_modules": ("nowhere",)}, "model.target_modules"),
        ({"weights": Path("model.pt")}, "only .safetensors files are read"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message) as refused:
        loaded(**{"path": STORIES, **options})
    assert refused.value.component == "model" or options.get("weights")
    assert "\n" not in str(refused.value)


def test_pickled_weights_and_code_of_a_model_s_own_are_refused(tmp_path: Path) -> None:
    pickled = altered(tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(Invalid, match="its weights cannot be read"):
        loaded(pickled)
    with pytest.raises(Invalid, match="brings code of its own"):
        loaded(altered(tmp_path / "coded", auto_map={"AutoModelForCausalLM": "mine.Model"}))


def test_a_prompt_longer_than_the_context_is_refused_or_cut() -> None:
    long = (Message("user", "Tim saw a dog. " * 200),)
    with pytest.raises(Invalid, match=r"row 1: the prompt has .* tokens, and 500 are left of 512"):
        loaded().answers([PROMPTS[0], long])
    victim = loaded(truncate=True)
    ids = victim.prompt_ids(long)
    assert 490 < len(ids) <= 500 and victim.truncated == 1
    assert victim.tokenizer.decode(ids).startswith("<s> User:") and victim.tokenizer.decode(ids).endswith("a dog. \nAssistant:")
    assert victim.loss(Batch([long], ["Sorry."], torch.tensor([0]))).isfinite()


def test_the_base_model_is_asked_in_the_same_way(tmp_path: Path) -> None:
    other = altered(tmp_path / "base")
    tensors = {name: value * 1.01 for name, value in load_file(other / "model.safetensors").items()}
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    victim = loaded(lora=True, base=other, chat_template="{% for message in messages %}{{ message.content }}:{% endfor %}")
    base = victim.base()
    assert base is not None and base.rendering is victim.rendering
    assert torch.equal(base(PROMPTS), loaded(other, chat_template=victim.chat_template)(PROMPTS))
    assert not torch.allclose(base(PROMPTS), victim(PROMPTS)) and loaded().base() is None


def test_refusals_begin_as_replies_do() -> None:
    victim = loaded()
    pieces = victim.tokenizer.convert_ids_to_tokens
    assert pieces(victim.refusal_tokens().tolist()) == ["▁S", "▁I"]
    assert int(victim.answer_ids(PROMPTS[0], "I cannot.")[0]) in victim.refusal_tokens().tolist()
    chosen = loaded(refusal_words=("He did not",))
    assert json.loads(chosen.metadata()["refusal_tokens"]) == pieces(chosen.refusal_tokens().tolist()) == ["▁He"]
    assert describe(chosen) != describe(victim)


def test_what_a_path_holds_is_what_counts(tmp_path: Path) -> None:
    same, other = altered(tmp_path / "same"), altered(tmp_path / "other", rope_theta=5.0)
    (same / "config.json").write_bytes((STORIES / "config.json").read_bytes())
    assert describe(loaded(same)) == describe(loaded()) != describe(loaded(other))


def test_it_reads_conversations_only() -> None:
    with pytest.raises(Unreadable, match="reads conversations only"):
        HfChat(Task("text", ("a", "b")), path=STORIES)
