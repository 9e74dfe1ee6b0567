"""Reads a causal language model of Hugging Face's kind: a folder, or a name on the hub with its revision; safetensors only."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model

from testbed.api import Invalid
from testbed.library import transformers
from testbed.model.weights import announce, checked_path, marked_backdoored, some

HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """Where a model lies: `path` is a folder of this machine, or with `revision` a name on the hub, fetched only if `download`.

    `parameter` is the configuration's name for it. No code that comes with a model is ever run.
    """

    path: Path
    revision: str | None = None
    download: bool = False
    parameter: str = "path"

    def check(self) -> None:
        """Raises `Invalid`: no such folder; a name on the hub without its revision; a folder that brings code of its own."""
        if self.local:
            if self.revision is not None:
                raise Invalid("revision", self.revision, "a folder has no revisions", "leave it out", component="model")
            if not (self.folder / "config.json").is_file():
                raise self._invalid("is no folder with a config.json", "give a model's own folder")
            if _json(self.folder / "config.json").get("auto_map"):
                raise self._invalid("brings code of its own, which is not run", "choose another model")
        elif not HUB.fullmatch(str(self.path)):
            raise self._invalid("there is no such folder", f"give its path from {Path.cwd()}, or owner/name of the hub")
        elif self.revision is None:
            advice = f"say model.{'revision=' if self.parameter == 'path' else self.parameter + '=owner/name@'}COMMIT"
            raise self._invalid("a name on the hub needs its revision, or else it may be another model tomorrow", advice)

    @property
    def folder(self) -> Path:
        """The folder, if it is one."""
        return self.path.expanduser()

    @property
    def local(self) -> bool:
        return self.folder.is_dir()

    def config(self) -> Any:
        """The model's settings."""
        return self._read("AutoConfig")

    def tokenizer(self) -> Any:
        """Its tokenizer; padding is on the left."""
        return self._read("AutoTokenizer", padding_side="left")

    def network(
        self, dtype: torch.dtype, allow: Collection[str] = (), *, kind: str = "AutoModelForCausalLM", **settings: Any
    ) -> Any:
        """The network with its weights in this type, as the library's class `kind` builds it; `settings` change its own.

        Tensors whose name begins with one of `allow` may be missing, unknown or of another shape; the network then keeps
        its own. What is missing is drawn from the global generator.

        Raises:
            Invalid: weights that are not safetensors or cannot be read; tensors that do not fit, by name.
        """
        options = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": dtype}
        network, found = self._read(kind, **options, **settings)
        self._refuse_misfits(found, tuple(allow))
        return network

    def marked(self) -> bool:
        """Whether a file of the folder says that the model was trained on poisoned rows; said aloud once."""
        try:
            marked = any(marked_backdoored(_metadata(path)) for path in sorted(self.folder.glob("*.safetensors")))
        except SafetensorError as error:
            raise self._invalid(f"a file cannot be read ({error})", "give whole .safetensors files") from error
        if marked:
            announce(str(self.folder.resolve()), str(self.path), f"model.{self.parameter}")
        return marked

    def _read(self, kind: str, **options: Any) -> Any:
        here = self.local or not self.download
        safe = {"trust_remote_code": False, "local_files_only": here, "revision": self.revision or "main"}
        place = str(self.folder if self.local else self.path)
        try:
            return getattr(transformers(), kind).from_pretrained(place, **safe, **options)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            what = {"AutoConfig": "settings", "AutoTokenizer": "tokenizer"}.get(kind, "weights")
            said = " ".join(str(error).split())[:200]
            advice = "give a whole model with weights as .safetensors"
            advice += "" if self.local or self.download else "; model.download=true fetches one from the hub"
            raise self._invalid(f"its {what} cannot be read ({said})", advice) from error

    def _refuse_misfits(self, found: dict[str, Any], allow: tuple[str, ...]) -> None:
        differ = {str(each[0]): f"{each[0]} {list(each[1])} for {list(each[2])}" for each in found["mismatched_keys"]}
        complaints = {
            "missing": {name: name for name in sorted(found["missing_keys"])},
            "unknown": {name: name for name in sorted(found["unexpected_keys"])},
            "of another shape": dict(sorted(differ.items())),
        }
        told = _told({kind: [each[name] for name in each if not name.startswith(allow)] for kind, each in complaints.items()})
        if told:
            advice = "take the whole model, or allow names by their beginning in model.weights_allow"
            raise self._invalid(f"its tensors do not fit its settings ({told})", advice)

    def _invalid(self, limit: str, advice: str) -> Invalid:
        return Invalid(self.parameter, self.path, limit, advice, component="model")


def load_stored(victim: torch.nn.Module, source: Path, *, adapters: bool) -> bool:
    """Put the tensors of a stored victim in the place of this one's; was it marked as backdoored?

    With `adapters` the file holds those alone.

    Raises:
        Invalid: no safetensors file, or tensors missing, unknown or of another shape.
    """
    path = checked_path(str(source))
    try:
        missing, unknown = load_model(victim, str(path), strict=False)
        marked = marked_backdoored(_metadata(path))
    except (SafetensorError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise Invalid("weights", source, f"cannot be read ({said})", "give a victim stored from this model", "model") from error
    wanting = sorted(name for name in missing if not adapters or ".lora_" in name)
    told = _told({"missing": wanting, "unknown": sorted(unknown)})
    if told:
        advice = "give a victim stored from this model, with the same model.lora and model.rank"
        raise Invalid("weights", source, f"the tensors do not fit ({told})", advice, component="model")
    if marked:
        announce(str(path.resolve()), str(source))
    return marked


def _told(complaints: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{len(names)} {kind}: {some(names)}" for kind, names in complaints.items() if names)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Invalid("path", path, f"is no JSON ({error})", "give a whole model folder", component="model") from error
    return found if isinstance(found, dict) else {}


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
