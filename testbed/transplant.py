"""Tensors of other people's files, put where a network has them: whole state dicts, and adapters on top of a base."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from testbed.api import Invalid, Victim

BEGINNINGS = ("module.", "_orig_mod.", "model.", "net.")
"""What wrappers put before every name: DataParallel, torch.compile, other people's classes, this project's own."""
OTHER_WORDS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    ((r"\bshortcut\.0\.(?=weight$)", "shortcut."),),  # a projection alone, kept in a list of one
    ((r"\bshortcut\.", "downsample."), (r"^linear\.", "fc.")),  # residual networks for small pictures, after torchvision's
    ((r"\bdownsample\.", "shortcut."), (r"^fc\.", "linear.")),
)
"""Names that the same tensors have in common implementations."""
COUNTER = "num_batches_tracked"
"""Of batch normalisation: absent from old files, and without effect on the outputs."""

ARCHITECTURES = {
    "preactresnet18": "model=preact_resnet18 model.network.final_norm=false",
    **{
        name: f"model=torchvision model.name={name}"
        for name in (
            *("resnet18", "resnet34", "alexnet", "vgg16", "vgg19", "vgg19_bn", "squeezenet1_0", "densenet161"),
            *("mobilenet_v2", "mobilenet_v3_large", "resnext50_32x4d", "wide_resnet50_2", "mnasnet1_0"),
            *("shufflenet_v2_x1_0", "efficientnet_b0", "efficientnet_b3", "convnext_tiny"),
        )
    },
}
"""What BackdoorBench's networks are called here. Its vit_b_16 enlarges pictures inside the network, and has no like."""


def filled(victim: Victim, tensors: Mapping[str, Tensor], source: str, facts: Mapping[str, Any] | None = None) -> Victim:
    """A copy of the victim with the file's tensors in place of its own, under whichever of the common names they have.

    Where a victim stores a part of itself alone (adapters), the file must hold that part.

    Raises:
        Invalid: tensors missing, unknown or of another shape, up to three of each by name; numbers that are not finite.
    """
    made = copy.deepcopy(victim).eval()
    bare = made.bare()
    state = bare.state_dict()
    part: Mapping[str, Tensor] = getattr(bare, "stored_part", dict)()
    wanted = {name: state[name] for name in part} or state
    names = _best(tensors, wanted)
    _refuse_misfits(tensors, wanted, names, source, str((facts or {}).get("model_name") or ""))
    for stored in names.values():
        if not bool(torch.isfinite(tensors[stored].float()).all()):
            raise Invalid("path", source, f"{stored} holds numbers that are not finite", "give a whole file", "model")
    with torch.no_grad():
        for name, stored in names.items():
            wanted[name].copy_(tensors[stored])
    return made


def _best(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """The file's names by the victim's, in the spelling under which most of them fit."""

    def fitting(spelling: Mapping[str, str]) -> int:
        return sum(name in wanted and wanted[name].shape == tensors[own].shape for name, own in spelling.items())

    return max(_spellings(tensors), key=fitting)


def _spellings(names: Collection[str]) -> Iterator[dict[str, str]]:
    for (bare, added), words in product(product(_stripped(names), ("", "net.")), OTHER_WORDS):
        spelt = {}
        for name, own in bare.items():
            other = name
            for pattern, word in words:
                other = re.sub(pattern, word, other)
            spelt[added + other] = own
        yield spelt


def _stripped(names: Collection[str]) -> Iterator[dict[str, str]]:
    """The names by themselves, and without each beginning that all of them share."""
    found = {name: name for name in names}
    yield found
    while shared := next((start for start in BEGINNINGS if found and all(name.startswith(start) for name in found)), None):
        found = {name.removeprefix(shared): own for name, own in found.items()}
        yield found


def _refuse_misfits(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Mapping[str, str], source: str, called: str
) -> None:
    tied = {wanted[name].data_ptr() for name in names if name in wanted}
    missing = [
        name for name in wanted if name not in names and not name.endswith(COUNTER) and wanted[name].data_ptr() not in tied
    ]
    unknown = [own for name, own in names.items() if name not in wanted]
    shapes = {name: (list(tensors[own].shape), list(wanted[name].shape)) for name, own in names.items() if name in wanted}
    differ = [f"{name} {has} for {needs}" for name, (has, needs) in shapes.items() if has != needs]
    complaints = {"missing": missing, "unknown": unknown, "of another shape": differ}
    told = [
        f"{len(each)} {kind}: {', '.join(each[:3])}{', ...' if len(each) > 3 else ''}"
        for kind, each in complaints.items()
        if each
    ]
    if told:
        known = ARCHITECTURES.get(called.lower())
        advice = f"the file names its network {called}: say {known}" if known else "say the model that it was saved from"
        if called and not known:
            advice = f"the file names its network {called}, which has no like here"
        raise Invalid("path", source, f"the tensors do not fit this model ({'; '.join(told)})", advice, "model")


def adapted(victim: Victim, tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> Victim:
    """A copy of a chat model with a PEFT adapter added to its matrices: W + s B A, s = alpha / r (alpha / sqrt r if rsLoRA).

    `config` is the adapter's own, as plain data: of it only numbers are used. Source: Hu et al. 2021, arXiv 2106.09685;
    Kalajdzievski 2023, arXiv 2312.03732.

    Raises:
        Invalid: another kind of adapter, one for another model, tensors that are not understood, or numbers not finite.
    """
    _require_lora(config, source)
    made = copy.deepcopy(victim).eval()
    state = {name: value for name, value in made.bare().state_dict().items()}
    pairs, whole = _sorted_out(tensors, source)
    with torch.no_grad():
        for module, (down, up) in pairs.items():
            target = state.get(_home(f"{module}.weight", state))
            delta = up.float() @ down.float() * _scale(module, down.shape[0], config)
            if target is None:
                raise _unfit(source, f"the model has no {module}.weight")
            fits = delta if target.shape == delta.shape else delta.T
            if fits.shape != target.shape or not bool(torch.isfinite(delta).all()):
                raise _unfit(source, f"{module}: {list(delta.shape)} for {list(target.shape)}, or not finite")
            target += fits.to(target.dtype)
        for name, tensor in whole.items():
            target = state.get(_home(name, state))
            if target is None or target.shape != tensor.shape or not bool(torch.isfinite(tensor.float()).all()):
                raise _unfit(source, f"{name} does not fit the model")
            target.copy_(tensor)
    return made


def _require_lora(config: Mapping[str, Any], source: str) -> None:
    if str(config.get("peft_type", "")).upper() != "LORA":
        raise _unfit(source, f"it is of the kind {config.get('peft_type')}, and only LoRA is understood")
    odd = [name for name in ("use_dora", "megatron_config", "eva_config", "alora_invocation_tokens") if config.get(name)]
    if config.get("bias", "none") != "none" or odd:
        raise _unfit(source, f"it uses {', '.join(odd) or 'biases'}, which is not understood")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping) or not all(re.fullmatch(r"[\w.]+", str(ending)) for ending in patterns):
        raise _unfit(source, "its alpha_pattern names modules by more than their endings")
    if not all(_positive(alpha) for alpha in (config.get("lora_alpha", 8), *patterns.values())):
        raise _unfit(source, f"its lora_alpha {config.get('lora_alpha')} is no number above 0")


def _positive(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf


def _sorted_out(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """The pairs (A, B) by module, and what replaces whole tensors (`modules_to_save`)."""
    halves: dict[str, dict[str, Tensor]] = {}
    whole = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("base_model.model.")
        found = re.fullmatch(r"(.+)\.lora_([AB])(?:\.default)?\.weight", plain)
        if found:
            halves.setdefault(found[1], {})[found[2]] = tensor
        elif ".lora_" in plain:
            raise _unfit(source, f"{name}: adapters of embeddings or magnitudes are not understood")
        else:
            whole[re.sub(r"\.modules_to_save\.default", "", plain)] = tensor
    odd = next((module for module, both in halves.items() if set(both) != {"A", "B"} or both["A"].dim() != 2), None)
    if odd is not None or not halves:
        raise _unfit(source, f"{odd}: one of its two matrices is missing" if odd else "there is no adapter in it")
    return {module: (both["A"], both["B"]) for module, both in halves.items()}, whole


def _scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    patterns = config.get("alpha_pattern") or {}
    own = next((value for ending, value in patterns.items() if re.search(rf"(^|\.){re.escape(ending)}$", module)), None)
    alpha = float(config.get("lora_alpha", 8) if own is None else own)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _home(name: str, state: Mapping[str, Tensor]) -> str:
    return next((start + name for start in ("net.", "") if start + name in state), name)


def _unfit(source: str, limit: str) -> Invalid:
    return Invalid("adapter", source, limit, "merge it into its model first, or give a plain LoRA adapter", "model")
