"""Tensors of other people's files, put where a network has them: whole state dicts, and adapters on top of a base."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from testbed.api import Invalid, Victim
from testbed.error import shortened
from testbed.words import misfits

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
    told = misfits({"missing": missing, "unknown": unknown, "of another shape": differ})
    if told:
        known = ARCHITECTURES.get(called.lower())
        advice = f"the file names its network {called}: say {known}" if known else "say the model that it was saved from"
        if called and not known:
            advice = f"the file names its network {called}, which has no like here"
        raise Invalid("path", source, f"the tensors do not fit this model ({told})", advice, "model")


class Adapter(NamedTuple):
    """By module A (rank, inputs) and B (outputs, rank), and by how much B A is multiplied; `whole` tensors stand beside."""

    pairs: dict[str, tuple[Tensor, Tensor]]
    scales: dict[str, float]
    whole: dict[str, Tensor]

    @property
    def ranks(self) -> dict[str, int]:
        """Those of the matrices, whatever the settings say."""
        return {module: down.shape[0] for module, (down, _) in self.pairs.items()}


def understood(tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> Adapter:
    """The adapter that the tensors hold; its settings decide no more than the scale, and must not contradict them.

    Raises:
        Invalid: another kind of adapter, tensors that are not understood, or settings that say another rank or other modules.
    """
    _require_lora(config, source)
    pairs, whole = _sorted_out(tensors, source)
    found = Adapter(pairs, {module: _scale(module, down.shape[0], config) for module, (down, _) in pairs.items()}, whole)
    _require_as_said(found, config, source)
    return found


def _require_as_said(found: Adapter, config: Mapping[str, Any], source: str) -> None:
    """What clean adapters are trained to be like must be what is in the file, and what its settings say of it."""
    own = config.get("rank_pattern") or {}
    said = [rank for rank in (config.get("r"), *(own.values() if isinstance(own, Mapping) else ())) if rank is not None]
    odd = next((module for module, rank in found.ranks.items() if said and rank not in said), None)
    if odd is not None:
        told = ", ".join(shortened(str(rank), 20) for rank in said[:3])
        raise _unfit(source, f"its settings say r={told}, and the matrices of {odd} have rank {found.ranks[odd]}")
    wanted = config.get("target_modules")
    if isinstance(wanted, list):
        named = set(map(str, wanted))
        odd = next((module for module in found.pairs if not named & _endings(module)), None)
        if odd is not None:
            raise _unfit(source, f"its settings name no module {odd} in target_modules, and it has matrices for it")


def _endings(module: str) -> set[str]:
    """'a.b.c', 'b.c' and 'c'."""
    parts = module.split(".")
    return {".".join(parts[place:]) for place in range(len(parts))}


def _turned(module: Any) -> bool:
    """Whether it keeps its matrix as (inputs, outputs): a Conv1D of transformers', as in GPT-2.

    By the layer, as peft does it: the file's own fan_in_fan_out is that of whichever layer was the last one.
    """
    return any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)


def adapted(victim: Victim, tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> Victim:
    """A copy of a chat model with a PEFT adapter added to its matrices: W + s B A, s = alpha / r (alpha / sqrt r if rsLoRA).

    `config` is the adapter's own, as plain data: of it only numbers are used. Source: Hu et al. 2021, arXiv 2106.09685;
    Kalajdzievski 2023, arXiv 2312.03732.

    Raises:
        Invalid: another kind of adapter, one for another model, tensors that are not understood, or numbers not finite.
    """
    adapter = understood(tensors, config, source)
    made = copy.deepcopy(victim).eval()
    bare = made.bare()
    state = bare.state_dict()
    with torch.no_grad():
        for module, (down, up) in adapter.pairs.items():
            home = _home(f"{module}.weight", state)
            target = state.get(home)
            if target is None:
                raise _unfit(source, f"the model has no {module}.weight")
            turned = _turned(bare.get_submodule(home.removesuffix(".weight")))
            shape = [up.shape[0], down.shape[1]]  # of B A: looked at before the two are multiplied
            if list(target.shape) != (shape[::-1] if turned else shape):
                raise _unfit(source, f"{module}: {shape} for {list(target.shape)}")
            delta = up.float() @ down.float() * adapter.scales[module]
            if not bool(torch.isfinite(delta).all()):
                raise _unfit(source, f"{module} holds numbers that are not finite")
            target += (delta.T if turned else delta).to(target.dtype)
        for name, tensor in adapter.whole.items():
            target = state.get(_home(name, state))
            if target is None or target.shape != tensor.shape or not bool(torch.isfinite(tensor.float()).all()):
                raise _unfit(source, f"{name} does not fit the model")
            target.copy_(tensor)
    return made


ODD = (
    *("use_dora", "megatron_config", "eva_config", "alora_invocation_tokens", "layer_replication", "use_qalora"),
    *("arrow_config", "lora_ga_config", "kasa_config", "velora_config", "monteclora_config", "use_bdlora"),
)
"""Settings under which more happens than W + scale B A."""
STARTS = (None, True, False, "true", "false", "gaussian", "eva", "orthogonal", "mica")
"""Values of init_lora_weights that leave the base as it is. PiSSA, OLoRA, CorDA and LoftQ change it: their adapters belong to
what is left of the base, which the file does not hold."""


def _require_lora(config: Mapping[str, Any], source: str) -> None:
    if str(config.get("peft_type", "")).upper() != "LORA":
        raise _unfit(source, f"it is of the kind {config.get('peft_type')}, and only LoRA is understood")
    odd = [name for name in ODD if config.get(name)]
    if config.get("bias", "none") != "none" or odd:
        raise _unfit(source, f"it uses {', '.join(odd) or 'biases'}, which is not understood")
    start = config.get("init_lora_weights")
    if not isinstance(start, str | bool | None) or (start.lower() if isinstance(start, str) else start) not in STARTS:
        raise _unfit(
            source, f"it began as {shortened(str(start), 40)} (init_lora_weights), which changes the base that it is added to"
        )
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping) or not all(re.fullmatch(r"[\w.]+", str(ending)) for ending in patterns):
        raise _unfit(source, "its alpha_pattern names modules by more than their endings")
    if not all(_positive(alpha) for alpha in (config.get("lora_alpha", 8), *patterns.values())):
        raise _unfit(source, f"its lora_alpha {config.get('lora_alpha')} is no number above 0")


def _positive(number: Any) -> bool:
    return (
        isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < 1e30
    )  # far below what no float holds


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
    odd = next((module for module, both in halves.items() if set(both) != {"A", "B"}), None)
    if odd is not None or not halves:
        raise _unfit(source, f"{odd}: one of its two matrices is missing" if odd else "there is no adapter in it")
    pairs = {module: (both["A"], both["B"]) for module, both in halves.items()}
    for module, (down, up) in pairs.items():
        if down.dim() != 2 or up.dim() != 2 or down.shape[0] < 1 or down.shape[0] != up.shape[1]:
            raise _unfit(source, f"{module}: {list(down.shape)} and {list(up.shape)} are no two matrices of one rank above 0")
    return pairs, whole


def _scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    patterns = config.get("alpha_pattern") or {}
    own = next((value for ending, value in patterns.items() if re.search(rf"(^|\.){re.escape(ending)}$", module)), None)
    alpha = float(config.get("lora_alpha", 8) if own is None else own)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _home(name: str, state: Mapping[str, Tensor]) -> str:
    return next((start + name for start in ("net.", "") if start + name in state), name)


def _unfit(source: str, limit: str) -> Invalid:
    return Invalid("adapter", source, limit, "merge it into its model first, or give a plain LoRA adapter", "model")
