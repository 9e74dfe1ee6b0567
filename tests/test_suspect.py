"""Tensors of other people's files in networks of ours, and what is made of a file's claims."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from testbed.api import ImageTask, Invalid
from testbed.language import ChatVictim
from testbed.model.image import ImageVictim
from testbed.model.preact_resnet18 import PreActResNet18
from testbed.model.small_cnn import SmallCNN
from testbed.suspect import NORMALISATION, dressed, mark_of, require_alike
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


LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}


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
        (LORA, {"base_model.model.x.lora_A.weight": torch.zeros(2, 4)}, "one of its two matrices is missing"),
        (LORA, {f"base_model.model.x.lora_{half}.weight": torch.zeros(2, 2) for half in "AB"}, "the model has no x.weight"),
        (LORA, {"base_model.model.x.lora_embedding_A": torch.zeros(2, 2)}, "adapters of embeddings"),
    ],
)
def test_an_adapter_that_is_not_understood_is_refused(
    chat: ChatVictim, config: dict[str, Any], state: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(Invalid, match=r"model\.adapter=a") as refused:
        adapted(chat, state, config, "a")
    assert said in str(refused.value)
