"""Tensors of other people's files in networks of ours, and what is made of a file's claims."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from testbed.api import ImageTask, Invalid
from testbed.language import ChatVictim
from testbed.library import transformers
from testbed.model.adapter import adapter_state, merged
from testbed.model.image import ImageVictim
from testbed.model.preact_resnet18 import PreActResNet18
from testbed.model.small_cnn import SmallCNN
from testbed.suspect import NORMALISATION, dressed, mark_of, read, require_alike
from testbed.transplant import adapted, filled

TASK = ImageTask("images", tuple("abc"), (3, 8, 8), (0.4,), (0.2,))
SMALL = partial(ImageVictim, network=partial(SmallCNN, width=2), mean=None, std=None)
RESIDUAL = partial(ImageVictim, network=partial(PreActResNet18, width=2, final_norm=False), mean=None, std=None)
IMAGES = torch.arange(2 * 3 * 64).reshape(2, 3, 8, 8).remainder(251).to(torch.uint8)


def _victim(model: Any = SMALL, seed: int = 0) -> ImageVictim:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model(TASK).eval()


def _state(victim: ImageVictim) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in victim.net.state_dict().items()}


@pytest.mark.parametrize("beginning", ["", "net.", "module.", "module.net.", "_orig_mod.", "model.net."])
def test_a_network_is_found_whatever_was_wrapped_around_it(beginning: str) -> None:
    theirs, ours = _victim(seed=1), _victim(seed=2)
    made = filled(ours, {beginning + name: tensor.double() for name, tensor in _state(theirs).items()}, "x.pt")
    assert torch.equal(made(IMAGES), theirs(IMAGES))
    assert not torch.equal(ours(IMAGES), theirs(IMAGES))


def test_a_projection_that_others_keep_in_a_list_is_found() -> None:
    theirs = _victim(RESIDUAL, 1)
    spelt = {name.replace("shortcut.weight", "shortcut.0.weight"): tensor for name, tensor in _state(theirs).items()}
    assert any("shortcut.0" in name for name in spelt)
    assert torch.equal(filled(_victim(RESIDUAL, 2), spelt, "x.pt")(IMAGES), theirs(IMAGES))


def test_the_counters_of_old_files_may_be_missing_and_nothing_else() -> None:
    state = _state(_victim(seed=1))
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert torch.equal(filled(_victim(), old, "x.pt")(IMAGES), _victim(seed=1)(IMAGES))
    for odd, said in (
        ({name: tensor for name, tensor in state.items() if name != "linear.bias"}, "1 missing: net.linear.bias"),
        ({**state, "more": torch.zeros(1)}, "1 unknown: more"),
        ({**state, "linear.bias": torch.zeros(7)}, "1 of another shape: net.linear.bias [7] for [3]"),
        ({**state, "linear.bias": torch.full((3,), torch.nan)}, "linear.bias holds numbers that are not finite"),
    ):
        with pytest.raises(Invalid, match=r"model\.path=x\.pt") as refused:
            filled(_victim(), odd, "x.pt")
        assert said in str(refused.value)


def test_a_misfit_names_what_the_file_says_that_it_is() -> None:
    state = {"layer1.0.conv1.weight": torch.zeros(1)}
    with pytest.raises(Invalid, match=r"say model=preact_resnet18 model\.network\.final_norm=false"):
        filled(_victim(), state, "x.pt", {"model_name": "preactresnet18"})
    with pytest.raises(Invalid, match="its network vit_b_16, which has no like here"):
        filled(_victim(), state, "x.pt", {"model_name": "vit_b_16"})


def test_normalisation_is_the_users_or_the_files_or_the_datas() -> None:
    theirs = {"mean": "[0.1, 0.2, 0.3]", "std": "[0.5]"}
    users = partial(SMALL, mean=(0.3,), std=(0.3,))
    for model, facts, mean, source in (
        (users, theirs, (0.3,), "model.mean and model.std"),
        (SMALL, theirs, (0.1, 0.2, 0.3), "the file's own"),
        (SMALL, {"metadata": theirs}, (0.1, 0.2, 0.3), "the file's own"),
        (SMALL, {"clean_data": "CIFAR10"}, NORMALISATION["cifar10"][0], "BackdoorBench's for CIFAR10"),
        (SMALL, {}, (0.4,), "the data's, for the file names none"),
    ):
        found = dressed(model, facts, TASK)
        assert found.model(TASK).centre == mean  # type: ignore[attr-defined]
        assert found.normalisation.startswith(source)
    assert dressed(SMALL, {"mean": "[0.4]", "std": "[0.2]"}, TASK).model is SMALL  # clean models are shared with other audits
    with pytest.raises(Invalid, match="the file's own mean is no list of numbers"):
        dressed(SMALL, {"mean": "half", "std": "[0.2]"}, TASK)


def test_a_file_may_say_that_it_is_of_another_task() -> None:
    require_alike({"num_classes": 3, "img_size": [8, 8, 3]}, TASK)
    with pytest.raises(Invalid, match="the file says 43 classes, and the data have 3"):
        require_alike({"num_classes": 43}, TASK)
    with pytest.raises(Invalid, match="the file says 32 x 32 pixels, and the data have 8 x 8"):
        require_alike({"img_size": [32, 32, 3]}, TASK)


def test_marks_are_told() -> None:
    assert mark_of({}) == ""
    assert mark_of({"backdoored": "true"}) == mark_of({"metadata": {"backdoored": "True"}}) == "the file says backdoored=true"
    assert mark_of({"left_out": ["bd_train", "optimizer"]}) == "the file brings poisoned rows (bd_train)"


@pytest.mark.parametrize("mean", ["[" * 20_000, f"[1{'0' * 400}]", "[]", "[NaN]", [10**400]])
def test_a_normalisation_that_is_none_is_refused_in_one_line(mean: Any) -> None:
    with pytest.raises(Invalid, match="the file's own mean is no list of numbers"):
        dressed(SMALL, {"mean": mean, "std": "[0.2]"}, TASK)


LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}


def _halves(down: tuple[int, ...], up: tuple[int, ...]) -> dict[str, Tensor]:
    """Of one layer; views of one number, so that they take no room."""
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    return {name.format(half): torch.zeros(1).expand(shape) for half, shape in (("A", down), ("B", up))}


@pytest.mark.parametrize("told", [True, False])
def test_square_matrices_of_a_gpt2_are_added_the_right_way_round(chat: ChatVictim, told: bool) -> None:
    """Its Conv1D keeps (inputs, outputs), which the shape of a square matrix does not show."""
    peft = pytest.importorskip("peft")
    library = transformers()
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 12, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 1}
    base = library.GPT2LMHeadModel(library.GPT2Config(**sizes)).eval()
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["attn.c_proj"], fan_in_fan_out=True)
    theirs = peft.inject_adapter_in_model(config, copy.deepcopy(base))
    for value in adapter_state(theirs).values():
        torch.nn.init.normal_(value, generator=torch.Generator().manual_seed(value.shape[0]))
    state = {f"base_model.model.{name}": value.detach().clone() for name, value in adapter_state(theirs).items()}
    chat.net = base  # type: ignore[assignment]
    made = adapted(chat, state, {**LORA, "target_modules": ["attn.c_proj"], "fan_in_fan_out": told}, "a")
    expected = merged(theirs).state_dict()  # by peft
    for name, value in made.net.state_dict().items():  # type: ignore[operator, union-attr]
        assert torch.allclose(value, expected[name], atol=1e-5), name


def _adapter(folder: Path, tensors: dict[str, Tensor], **config: Any) -> dict[str, str]:
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**LORA, **config}), encoding="utf-8")
    return {"path": str(folder), "kind": "adapter"}


def _model(task: Any, lora: bool = False, rank: int = 8, alpha: float = 16, target_modules: Any = "all-linear") -> Any:
    raise NotImplementedError  # nothing is built: only its parameters are looked at


def test_clean_adapters_are_made_like_the_matrices_whatever_the_settings_say(tmp_path: Path) -> None:
    square = _halves((2, 16), (16, 2))
    model = partial(_model, lora=False)
    found = read(_adapter(tmp_path / "plain", square), model, TASK)
    assert found.lone == "" and found.clean.keywords == {  # type: ignore[attr-defined]
        "lora": True,
        "rank": 2,
        "alpha": 6.0,
        "target_modules": ("model.layers.0.self_attn.q_proj",),  # of the four that the settings could mean
    }
    rooted = read(_adapter(tmp_path / "rooted", square, use_rslora=True), model, TASK)
    assert rooted.clean.keywords["alpha"] / 2 == pytest.approx(6 / 2**0.5)  # type: ignore[attr-defined]
    for name, config in (("rank", {"r": 10**9}), ("module", {"target_modules": ["v_proj"]})):
        with pytest.raises(Invalid, match="its settings"):
            read(_adapter(tmp_path / name, square, **config), model, TASK)
    other = {name.replace("q_proj", "down_proj"): value for name, value in _halves((4, 16), (16, 4)).items()}
    mixed = read(_adapter(tmp_path / "mixed", {**square, **other}, rank_pattern={"down_proj": 4}), model, TASK)
    assert "differ in rank or scale" in mixed.lone
    more = read(_adapter(tmp_path / "more", {**square, "base_model.model.lm_head.weight": torch.zeros(2)}), model, TASK)
    assert "replaces whole tensors" in more.lone


def test_a_whole_model_brings_all_of_its_weights_itself(tmp_path: Path) -> None:
    """Whatever the library would read was looked at first, and is in the digest."""
    folder = tmp_path / "model"
    folder.mkdir()
    suspect = {"path": str(folder), "kind": "folder"}
    (folder / "config.json").write_text("{}", encoding="utf-8")

    def refused(said: str) -> None:
        with pytest.raises(Invalid, match=r"model\.path=") as why:
            read(suspect, partial(_model), TASK)
        assert said in str(why.value)

    elsewhere = tmp_path / "elsewhere.safetensors"
    save_file({"x": torch.zeros(1)}, elsewhere)
    parts = folder / "model.safetensors.index.json"
    parts.write_text(json.dumps({"weight_map": {"x": "../elsewhere.safetensors"}}), encoding="utf-8")
    refused("there is no .safetensors in it")
    save_file({"x": torch.zeros(1)}, folder / "part.safetensors")
    refused("model.safetensors.index.json names ../elsewhere.safetensors, which is no file of weights in this folder")
    save_file({"x": torch.zeros(1)}, folder / ".hidden.safetensors")
    for odd, said in (
        (json.dumps({"weight_map": {"x": ".hidden.safetensors"}}), "names .hidden.safetensors"),
        (json.dumps({"weight_map": {"x": ["part.safetensors"]}}), "names ['part.safetensors']"),
        (json.dumps({"weight_map": 3}), "no parts"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "holds no names and values"),
    ):
        parts.write_text(odd, encoding="utf-8")
        refused(said)
    parts.write_text(json.dumps({"weight_map": {"x": "part.safetensors"}}), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"transformers_weights": "sub/x.safetensors"}), encoding="utf-8")
    refused("config.json names sub/x.safetensors as its weights")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert read(suspect, partial(_model), TASK).sandbox.startswith("weights checked first (")


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_does_what_peft_would_do(chat: ChatVictim, rslora: bool) -> None:
    """Against peft's own arithmetic, under the names that it stores."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=LORA["target_modules"], use_rslora=rslora)
    theirs = peft.inject_adapter_in_model(config, copy.deepcopy(chat.net)).eval()  # type: ignore[attr-defined]
    lora = {name: value for name, value in theirs.named_parameters() if ".lora_" in name}
    for value in lora.values():
        torch.nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(value.shape[0]))
    state = {f"base_model.model.{name.replace('.default', '')}": value.detach() for name, value in lora.items()}
    made = adapted(chat, state, {**LORA, "use_rslora": rslora}, "a")
    ids = torch.arange(12).reshape(2, 6)
    expected = theirs(input_ids=ids).logits
    assert torch.allclose(made.net(input_ids=ids).logits, expected, atol=1e-5)  # type: ignore[operator]
    assert not torch.allclose(chat.net(input_ids=ids).logits, expected, atol=1e-3)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("config", "state", "said"),
    [
        ({"peft_type": "IA3"}, {}, "only LoRA is understood"),
        ({**LORA, "use_dora": True}, {}, "use_dora"),
        ({**LORA, "bias": "all"}, {}, "biases"),
        ({**LORA, "lora_alpha": "6"}, {}, "lora_alpha 6 is no number above 0"),
        ({**LORA, "alpha_pattern": {"(a+)+$": 1}}, {}, "alpha_pattern"),
        (LORA, {}, "there is no adapter in it"),
        (LORA, _halves((2, 16), (16, 3)), "no two matrices of one rank above 0"),
        (LORA, _halves((0, 16), (16, 0)), "no two matrices of one rank above 0"),
        (LORA, _halves((2, 16), (16, 2, 1)), "no two matrices of one rank above 0"),
        (LORA, _halves((2, 4_000_000), (4_000_000, 2)), "[4000000, 4000000] for ["),  # 64 TB, had they been multiplied first
        ({**LORA, "r": 1}, _halves((2, 16), (16, 2)), "its settings say r=1, and the matrices of model.layers.0"),
        ({**LORA, "r": [1]}, _halves((2, 16), (16, 2)), "its settings say r=[1], and the matrices of model.layers.0"),
        ({**LORA, "r": 10**9}, _halves((2, 16), (16, 2)), "its settings say r=1000000000, and"),
        ({**LORA, "target_modules": ["v_proj"]}, _halves((2, 16), (16, 2)), "q_proj in target_modules"),
        ({**LORA, "init_lora_weights": "pissa_niter_4"}, {}, "it began as pissa_niter_4"),
        ({**LORA, "init_lora_weights": "olora"}, {}, "it began as olora"),
        ({**LORA, "init_lora_weights": "corda"}, {}, "it began as corda"),
        ({**LORA, "init_lora_weights": "loftq"}, {}, "it began as loftq"),
        ({**LORA, "lora_alpha": 10**400}, {}, "is no number above 0"),
        (LORA, {"base_model.model.x.lora_A.weight": torch.zeros(2, 4)}, "one of its two matrices is missing"),
        (LORA, {f"base_model.model.q_proj.lora_{half}.weight": torch.zeros(2, 2) for half in "AB"}, "has no q_proj.weight"),
        (LORA, {"base_model.model.x.lora_embedding_A": torch.zeros(2, 2)}, "adapters of embeddings"),
    ],
)
def test_an_adapter_that_is_not_understood_is_refused(
    chat: ChatVictim, config: dict[str, Any], state: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(Invalid, match=r"model\.adapter=a") as refused:
        adapted(chat, state, config, "a")
    assert said in str(refused.value)
