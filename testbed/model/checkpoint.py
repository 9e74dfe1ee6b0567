"""Reads a causal language model of Hugging Face's kind: a folder, or a name on the hub with its revision; safetensors only."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model

from testbed.api import Invalid, Victim
from testbed.library import snapshot, transformers
from testbed.model.weights import announce, checked_path, marked_backdoored
from testbed.words import misfits

HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")

FACTS = {name: f"model.{name}" for name in ("rank", "alpha", "target_modules", "chat_template")} | {"base_model": "model.path"}
"""What a stored victim says of what it was trained as, by the parameter that decides it."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a model lies: `path` is a folder of this machine, or with `revision` a name on the hub, fetched only if `download`.

    `revision` is a commit: a branch is another model tomorrow. What is on the hub is looked up once, and from then on is a
    folder like any other. `parameter` is the configuration's name for it. No code that comes with a model is ever run.
    """

    path: Path
    revision: str | None = None
    download: bool = False
    parameter: str = "path"

    def check(self) -> None:
        """Refuse what cannot be read, or not for certain.

        Raises:
            Invalid: no such folder; a name on the hub without its commit, or of a model that is not here and not to be
                fetched; a folder that brings code of its own, or an adapter.
        """
        self._check_name()
        if (self.folder / "adapter_config.json").is_file():
            limit = "has an adapter_config.json: whether the library would use the adapter or drop it, it does not say"
            raise self._invalid(limit, "merge the adapter into the model first, or give one stored here as model.weights")
        if not (self.folder / "config.json").is_file():
            raise self._invalid("is no folder with a config.json", "give a model's own folder")
        if self._settings().get("auto_map"):
            raise self._invalid("brings code of its own, which is not run", "choose another model")

    def _check_name(self) -> None:
        one = "revision=" if self.parameter == "path" else f"{self.parameter}=owner/name@"
        advice = f"say model.{one}COMMIT, all 40 digits of it"
        if self.local:
            if self.revision is not None:
                raise self._wrong_revision("a folder has no revisions", "leave it out")
        elif not HUB.fullmatch(str(self.path)):
            raise self._invalid("there is no such folder", f"give its path from {Path.cwd()}, or owner/name of the hub")
        elif self.revision is None:
            raise self._invalid("a name on the hub needs its revision, or else it may be another model tomorrow", advice)
        elif not COMMIT.fullmatch(self.revision):
            raise self._wrong_revision("is no commit: a branch or a tag may be another model tomorrow", advice)

    @property
    def folder(self) -> Path:
        """The folder; of a name on the hub, the one where this machine keeps it.

        Raises:
            Invalid: it is not kept here, or cannot be fetched.
        """
        if self.local:
            return self.path.expanduser()
        try:
            return snapshot(str(self.path), str(self.revision), download=self.download)
        except Exception as error:  # of classes that change with the library, and with what carries its connections
            if not self.download:
                raise self._invalid("is not on this machine, or not whole", "model.download=true fetches it") from error
            limit = f"cannot be fetched ({' '.join(str(error).split())[:200]})"
            raise self._invalid(limit, "look at its name, its commit and the network") from error

    @property
    def local(self) -> bool:
        """Whether `path` is a folder itself."""
        return self.path.expanduser().is_dir()

    def config(self, **settings: Any) -> Any:
        """The model's settings, some of them changed.

        Raises:
            Invalid: they cannot be read, or are those of an encoder-decoder.
        """
        found = self._read("AutoConfig", **settings)
        if getattr(found, "is_encoder_decoder", False):
            limit = "is an encoder-decoder: no causal language model, and no encoder of texts"
            raise self._invalid(limit, "choose another model")
        return found

    def require_causal(self) -> None:
        """Raises `Invalid` unless the model predicts each token from those before it alone."""
        config, library = self.config(), transformers()
        both_ways = type(config) in library.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
        if both_ways or type(config) not in library.MODEL_FOR_CAUSAL_LM_MAPPING:
            raise self._invalid(f"is no causal language model but a {config.model_type}", "choose another model")

    def outline(self, dtype: torch.dtype, *, kind: str = "AutoModelForCausalLM", **settings: Any) -> Any:
        """The network as `network` would build it, on the meta device: its tensors have types and shapes, and no numbers."""
        config = self.config(**settings)
        with self._reading("settings"), torch.device("meta"):
            return getattr(transformers(), kind).from_config(config, dtype=dtype)

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
        safe, folder = {"trust_remote_code": False, "local_files_only": True}, str(self.folder)
        with self._reading({"AutoConfig": "settings", "AutoTokenizer": "tokenizer"}.get(kind, "weights")):
            return getattr(transformers(), kind).from_pretrained(folder, **safe, **options)

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """What the library cannot read is told in one line."""
        try:
            yield
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            said = " ".join(str(error).split())[:200]
            advice = "give a whole model with weights as .safetensors"
            advice += "" if self.local or self.download else "; model.download=true fetches what is not here"
            raise self._invalid(f"its {what} cannot be read ({said})", advice) from error

    def _settings(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise self._invalid(f"its config.json is no JSON ({error})", "give a whole model folder") from error
        return found if isinstance(found, dict) else {}

    def _refuse_misfits(self, found: dict[str, Any], allow: tuple[str, ...]) -> None:
        differ = {str(each[0]): f"{each[0]} {list(each[1])} for {list(each[2])}" for each in found["mismatched_keys"]}
        complaints = {
            "missing": {name: name for name in sorted(found["missing_keys"])},
            "unknown": {name: name for name in sorted(found["unexpected_keys"])},
            "of another shape": dict(sorted(differ.items())),
        }
        told = misfits({kind: [each[name] for name in each if not name.startswith(allow)] for kind, each in complaints.items()})
        if told:
            advice = "take the whole model, or allow names by their beginning in model.weights_allow"
            raise self._invalid(f"its tensors do not fit its settings ({told})", advice)

    def _invalid(self, limit: str, advice: str) -> Invalid:
        shown = str(self.path) if self.parameter == "path" or self.revision is None else f"{self.path}@{self.revision}"
        return Invalid(self.parameter, shown, limit, advice, component="model")

    def _wrong_revision(self, limit: str, advice: str) -> Invalid:
        if self.parameter != "path":
            return self._invalid(f"{self.revision}: {limit}", advice)
        return Invalid("revision", self.revision, limit, advice, component="model")


def load_stored(victim: Victim, source: Path, *, adapters: bool = False) -> bool:
    """Put the tensors of a stored victim in the place of this one's; was it marked as backdoored?

    With `adapters` the file holds those alone.

    Raises:
        Invalid: no safetensors file; one that was trained as something else (see `FACTS`), or on another base; tensors
            missing, unknown or of another shape.
    """
    path = checked_path(str(source))
    try:
        facts = _metadata(path)
        _require_alike(victim, facts, source)
        missing, unknown = load_model(victim, str(path), strict=False)
    except (SafetensorError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise Invalid("weights", source, f"cannot be read ({said})", "give a victim stored from this model", "model") from error
    wanting = sorted(name for name in missing if not adapters or ".lora_" in name)
    told = misfits({"missing": wanting, "unknown": sorted(unknown)})
    if told:
        advice = "give a victim stored from this model, trained in the same way (whole, or with adapters)"
        raise Invalid("weights", source, f"the tensors do not fit ({told})", advice, component="model")
    marked = marked_backdoored(facts)
    if marked:
        announce(str(path.resolve()), str(source))
    return marked


def _require_alike(victim: Victim, facts: Mapping[str, str], source: Path) -> None:
    """Adapters fit any base, and any scale and template: only the file can tell for which they were made."""
    own: Mapping[str, str] = getattr(victim, "metadata", dict)() if FACTS.keys() & facts.keys() else {}
    differ = [name for name in FACTS if name in facts and name in own and facts[name] != own[name]]
    if differ:
        told = "; ".join(_difference(name, facts[name], own[name]) for name in differ)
        advice = "say it as it was, or give a victim stored from this model"
        raise Invalid("weights", source, f"was stored with {told}", advice, component="model")


def _difference(name: str, stored: str, own: str) -> str:
    long = name in ("chat_template", "base_model")
    return f"another {FACTS[name]}" if long else f"{FACTS[name]}={stored} (here {own})"


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
