"""A model that a stranger made, as a victim of ours: what the reader took out of the file, put where the network has it.

Nothing here reads a file: `testbed.untrusted` does, in a process of its own, and hands over tensors and plain facts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from testbed.api import Invalid, Victim
from testbed.error import shortened
from testbed.source import folder_digest
from testbed.task import Task
from testbed.transplant import Adapter, adapted, filled, understood
from testbed.untrusted import Opened, opened

Model = Callable[..., Victim]

NORMALISATION: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.5,), (0.5,)),
    "tiny": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "gtsrb": ((0.0,), (1.0,)),
    "celeba": ((0.0,), (1.0,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation by which BackdoorBench normalises each of its data sets (Wu et al. 2022, NeurIPS; its code)."""


class Dressed(NamedTuple):
    """A model that normalises as the file wants it, and who says so ('' where it normalises nothing)."""

    model: Model
    normalisation: str


def dressed(model: Model, facts: Mapping[str, Any], task: Task) -> Dressed:
    """The model with the mean and the deviation that belong to the file: the user's, the file's, or else the data's.

    Raises:
        Invalid: the file's own are no lists of numbers.
    """
    given: Mapping[str, Any] = getattr(model, "keywords", {})
    if "mean" not in given or "std" not in given:
        return Dressed(model, "")
    if given["mean"] is not None and given["std"] is not None:
        return Dressed(model, "model.mean and model.std")
    own = {name: _numbers(name, facts) for name in ("mean", "std")}
    if own["mean"] and own["std"]:
        same = all(own[name] == getattr(task, name, None) for name in own)  # then clean models are those of other audits
        return Dressed(model if same else partial(model, **own), "the file's own")
    known = NORMALISATION.get(str(facts.get("clean_data") or "").lower())
    if known is not None:
        return Dressed(partial(model, mean=known[0], std=known[1]), f"BackdoorBench's for {facts['clean_data']}")
    return Dressed(model, "the data's, for the file names none (say model.mean and model.std where it had others)")


def _numbers(name: str, facts: Mapping[str, Any]) -> tuple[float, ...] | None:
    stored = _metadata(facts).get(name, facts.get(name))
    if stored is None:
        return None
    try:
        found = tuple(float(number) for number in (json.loads(stored) if isinstance(stored, str) else stored))
        if not found or not all(map(math.isfinite, found)):
            raise ValueError(stored)
        return found
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        limit = f"the file's own {name} is no list of numbers"
        raise Invalid("path", None, limit, "say model.mean and model.std", "model") from error


def _metadata(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    found = facts.get("metadata")
    return found if isinstance(found, Mapping) else facts


def mark_of(facts: Mapping[str, Any]) -> str:
    """What the file itself says of being backdoored; '' where it says nothing."""
    said = str(_metadata(facts).get("backdoored", "")).lower()
    poisoned = [name for name in ("bd_train", "bd_test") if name in (facts.get("left_out") or ())]
    told = [f"the file says backdoored={said}"] if said in ("true", "false", "unknown") else []
    return "; ".join([*told, *([f"the file brings poisoned rows ({', '.join(poisoned)})"] if poisoned else [])])


def require_alike(facts: Mapping[str, Any], task: Task) -> None:
    """Raises `Invalid` where the file names another number of classes, or images of another size, than the data have."""
    classes, size, shape = facts.get("num_classes"), facts.get("img_size"), getattr(task, "shape", None)
    if isinstance(classes, int) and classes != len(task.classes):
        limit = f"the file says {classes} classes, and the data have {len(task.classes)}"
        raise Invalid("path", None, limit, "give data of the task that it was trained on", "model")
    if shape is not None and isinstance(size, list | tuple) and len(size) >= 2 and tuple(size[:2]) != tuple(shape[1:]):
        limit = f"the file says {size[0]} x {size[1]} pixels, and the data have {shape[1]} x {shape[2]}"
        raise Invalid("path", None, limit, "give data of that size", "model")


@dataclass(frozen=True)
class Read:
    """A suspect that was read: its architecture (`model`), what clean models start from (`clean`), and what the file says.

    `lone` says why there are no clean models to be had; '' where there are.
    """

    path: str
    kind: str
    sha256: str
    sandbox: str
    model: Model
    clean: Model
    normalisation: str = ""
    lone: str = ""
    content: Opened | None = None

    @property
    def facts(self) -> Mapping[str, Any]:
        return {} if self.content is None else self.content.facts

    @property
    def mark(self) -> str:
        """What the file says of being backdoored."""
        return mark_of(self.facts)

    @property
    def marked(self) -> bool:
        """Whether it says that it is, or brings poisoned rows."""
        return "backdoored=true" in self.mark or "poisoned rows" in self.mark

    def victim(self, untrained: Victim) -> Victim:
        """The model itself, made of an untrained one of its architecture; of a folder, `untrained` as it is."""
        if self.content is None:
            return untrained
        if self.kind == "peft":
            return adapted(untrained, self.content.tensors, adapter_config(self.facts), self.path)
        return filled(untrained, self.content.tensors, self.path, self.facts)

    def described(self) -> dict[str, Any]:
        """For people: plain data."""
        told = {name: self.facts[name] for name in TOLD if name in self.facts}
        own = {"path": self.path, "kind": self.kind, "sha256": self.sha256, "sandbox": self.sandbox, "mark": self.mark}
        return {**own, "normalisation": self.normalisation, "claims": told}


TOLD = ("model_name", "num_classes", "img_size", "clean_data", "attack")
"""Claims of a file that are shown."""


def read(suspect: Mapping[str, str], model: Model, task: Task, **limits: Any) -> Read:
    """Read the suspect's file in a process of its own; `suspect` holds its 'path' and its 'kind' (file, adapter or folder).

    Raises:
        Invalid: it cannot be read, or says itself that it is of another task.
        Refused: it is not safe to read.
    """
    path, kind = str(suspect["path"]), suspect["kind"]
    if kind == "folder":
        return _folder(path, model, limits)
    found = opened(Path(path), **limits)
    if (found.kind == "peft") != (kind == "adapter"):
        own = "an adapter: say model.adapter, and its base as model.path" if found.kind == "peft" else "no adapter"
        raise Invalid("adapter" if kind == "adapter" else "path", path, f"it is {own}", component="model")
    require_alike(found.facts, task)
    given: Mapping[str, Any] = getattr(model, "keywords", {})
    if kind == "adapter":
        whole = partial(model, lora=False) if "lora" in given else model
        like, lone = _as_trained(understood(found.tensors, adapter_config(found.facts), path))
        tuned = partial(model, **like) if "lora" in given else model
        return Read(path, found.kind, found.sha256, found.sandbox, whole, tuned, lone=lone, content=found)
    fitted = dressed(model, found.facts, task)
    facts = (path, found.kind, found.sha256, found.sandbox, fitted.model, fitted.model)
    return Read(*facts, normalisation=fitted.normalisation, content=found)


def _folder(path: str, model: Model, limits: Mapping[str, Any]) -> Read:
    """A whole model in a folder: each file of weights is looked at first; then the library reads it, and runs no code of it."""
    base, folder = getattr(model, "keywords", {}).get("base"), Path(path).expanduser()
    weights = _weights(folder, path)
    boxes = {opened(file, **limits).sandbox for file in weights}
    clean = model if base is None else partial(model, path=Path(base), base=None)
    lone = "" if base is not None else "model.base names no model that it was made from, to make clean ones of"
    sandbox = f"weights checked first ({'; '.join(sorted(boxes))}), then read here by transformers"
    return Read(path, "folder", folder_digest(folder), sandbox, model, clean, lone=lone)


def _weights(folder: Path, path: str) -> list[Path]:
    """The folder's files of weights: all that the library may read, for whatever names others is refused.

    Raises:
        Invalid: there are none, or the folder's settings or its list of parts name weights that are not among them.
    """
    found = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("."))  # hidden: not in the digest
    if not found:
        raise Invalid("path", path, "there is no .safetensors in it", "give the folder of a whole model", "model")
    lists = sorted(folder.glob(f"*{PARTS}"))
    here = {file.name for file in found}
    named = {place: _json(place, path).get("weight_map") for place in lists}
    for place, parts in named.items():
        odd = [str(part) for part in parts.values() if str(part) not in here] if isinstance(parts, Mapping) else ["no parts"]
        if odd:
            limit = f"{place.name} names {shortened(odd[0], 80)}, which is no file of weights in this folder"
            raise Invalid("path", path, limit, "give a folder that holds all of its weights itself", "model")
    settings = folder / "config.json"
    own = _json(settings, path).get("transformers_weights") if settings.is_file() else None
    if own is not None and str(own) not in {*here, *(place.name for place in lists)}:
        limit = f"config.json names {shortened(str(own), 80)} as its weights, which is no file of weights in this folder"
        raise Invalid("path", path, limit, "give a folder that holds all of its weights itself", "model")
    return found


def _json(place: Path, path: str) -> Mapping[str, Any]:
    try:
        if place.stat().st_size > LONGEST:
            raise ValueError(f"it has more than {LONGEST} bytes")
        found = json.loads(place.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it holds no names and values")
    except (OSError, ValueError, RecursionError) as error:
        said = shortened(" ".join(str(error).split()), 120)
        raise Invalid("path", path, f"{place.name} cannot be read ({said})", "give a whole model folder", "model") from error
    return found


PARTS = ".safetensors.index.json"
"""How the library's list of the parts of a large model is called."""
LONGEST = 32 * 2**20
"""Bytes of such a list, or of the settings, that are read."""


def adapter_config(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of an adapter, as plain data."""
    found = facts.get("adapter_config", facts)
    return found if isinstance(found, Mapping) else {}


def _as_trained(adapter: Adapter) -> tuple[dict[str, Any], str]:
    """How clean adapters are trained to be like this one, by its matrices; and why they cannot be, '' where they can.

    rsLoRA is told by its scale: alpha / rank is what B A is multiplied by.
    """
    ranks, scales = set(adapter.ranks.values()), set(adapter.scales.values())
    rank, modules = max(ranks), tuple(sorted(module.removeprefix("net.") for module in adapter.pairs))
    found = {"lora": True, "rank": rank, "alpha": max(scales) * rank, "target_modules": modules}
    if len(ranks) > 1 or len(scales) > 1:
        return found, "its modules differ in rank or scale, and clean adapters are trained with one of each"
    return found, "it replaces whole tensors beside its adapters, and clean adapters do not" if adapter.whole else ""
