"""Paths that are no files, links that lead elsewhere, and folders whose configuration asks for code or the network."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hostile.assembler import weights
from hostile.case import Aim, Case, content
from hostile.pickles import system
from hostile.tensors import ONE, safe

ADAPTER = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj"],
    "base_model_name_or_path": "models/base",
}
SECRET = "secret.safetensors"


def linked(place: Path, aim: Aim) -> None:
    secret = place.parent / SECRET
    secret.write_bytes(safe(ONE))
    place.symlink_to(secret)


def zero(place: Path, aim: Aim) -> None:
    place.symlink_to("/dev/zero")


def loop(place: Path, aim: Aim) -> None:
    place.symlink_to(place.name)


def bound(place: Path, aim: Aim) -> None:
    here = os.open(place.parent, os.O_RDONLY)  # the path of a socket may have 108 bytes at most
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/{place.name}")
    os.close(here)


def hole(place: Path, aim: Aim) -> None:
    with place.open("wb") as file:
        file.write(safe(ONE))
        file.truncate(17 << 30)


def folder(configuration: Mapping[str, Any] | bytes, beside: Mapping[str, str] | None = None) -> Callable[[Path, Aim], None]:
    """An adapter's folder with this configuration, and with texts beside it."""

    def made(place: Path, aim: Aim) -> None:
        place.mkdir()
        written = configuration if isinstance(configuration, bytes) else json.dumps({**ADAPTER, **configuration}).encode()
        (place / "adapter_config.json").write_bytes(written)
        (place / "adapter_model.safetensors").write_bytes(safe({"base_model.model.q_proj.lora_A.weight": ONE["w"]}))
        for name, words in (beside or {}).items():
            (place / name).write_text(words.replace("COMMAND", aim.command(place.name)), encoding="utf-8")

    return made


def linked_weights(place: Path, aim: Aim) -> None:
    folder({})(place, aim)
    (place / "adapter_model.safetensors").unlink()
    (place / "adapter_model.safetensors").symlink_to(place.parent / SECRET)


def pickled_weights(place: Path, aim: Aim) -> None:
    folder({})(place, aim)
    (place / "adapter_model.safetensors").unlink()
    (place / "adapter_model.bin").write_bytes(system(aim, "adapter"))


def whole_model(place: Path, aim: Aim) -> None:
    """A model's folder that brings its own code."""
    place.mkdir()
    own = {
        "model_type": "own",
        "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"},
        "_attn_implementation_internal": "a/b",
    }
    (place / "config.json").write_text(json.dumps(own), encoding="utf-8")
    (place / "modeling_own.py").write_text(aim.code("auto_map") + "\n", encoding="utf-8")
    (place / "model.safetensors").write_bytes(safe(ONE))


def aliases(aim: Aim) -> bytes:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 10)]
    return "\n".join(rows).encode()


TEMPLATE = "{{ ''.__class__.__mro__[1].__subclasses__()[0].__init__.__globals__['os'].system('COMMAND') }}"
CASES = [
    Case("link.safetensors", "a symbolic link to another file", "refused", linked),
    Case("zero.pt", "a link to /dev/zero", "refused", zero),
    Case("loop.pt", "a link to itself", "refused", loop),
    Case("pipe.pt", "a pipe that nobody writes to", "refused", lambda place, aim: os.mkfifo(place)),
    Case("socket.pt", "a socket", "refused", bound),
    Case("folder.pt", "an empty folder", "invalid", lambda place, aim: place.mkdir()),
    Case("folder_link", "a link to a folder", "refused", lambda place, aim: place.symlink_to("/etc")),
    Case("hole.safetensors", "17 GiB of nothing", "invalid", hole),
    Case("empty.pt", "no byte at all", "invalid", content(lambda aim: b"")),
    Case(
        "m\u043edel \u202e\U0001f4a3\n.pt",
        "a name with a line break, a letter of another script, and a turn of the line",
        "read",
        content(lambda aim: weights()),
    ),
    Case("config.yaml", "nested aliases of YAML", "invalid", content(aliases)),
    Case(
        "target.yaml",
        "a _target_ beside an artefact",
        "invalid",
        content(lambda aim: f"_target_: os.system\ncommand: {aim.command('target')}\n".encode()),
    ),
    Case(
        "adapter_mapping",
        "auto_mapping: a module to import",
        "refused",
        folder({"auto_mapping": {"parent_library": "evil", "base_model_class": "Evil"}}),
    ),
    Case(
        "adapter_address",
        "a base model at an address",
        "refused",
        folder({"base_model_name_or_path": "http://127.0.0.1:9/evil"}),
    ),
    Case("adapter_share", "a base model on a network share", "refused", folder({"base_model_name_or_path": "\\\\evil\\share"})),
    Case("adapter_trust", "trust_remote_code", "refused", folder({"trust_remote_code": True})),
    Case(
        "adapter_target",
        "a _target_ inside an adapter's configuration",
        "refused",
        folder({"runtime_config": {"_target_": "os.system"}}),
    ),
    Case("adapter_deep", "100,000 lists in one another", "invalid", folder(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
    Case("adapter_twice", "one key twice", "invalid", folder(b'{"peft_type": "LORA", "peft_type": "IA3"}')),
    Case("adapter_large", "a configuration of 2 MiB", "invalid", folder({"x": "y" * (2 << 20)})),
    Case("adapter_link", "weights that are a link out of the folder", "refused", linked_weights),
    Case("adapter_pickle", "os.system in adapter_model.bin", "refused", pickled_weights, "adapter"),
    Case(
        "adapter_template",
        "a chat template that reaches for os.system, and code beside it",
        "read",
        folder({}, {"tokenizer_config.json": json.dumps({"chat_template": TEMPLATE}), "modeling_own.py": "raise SystemExit"}),
    ),
    Case("model_auto_map", "a model that brings its own code", "invalid", whole_model),
]
NOT_FILES = {
    "http://127.0.0.1:{port}/model.pt": "an address",
    "file:///etc/passwd": "an address of a file",
    "s3://bucket/model.pt": "an address",
    "/proc/self/environ": "a file of the system's",
    "/dev/zero": "a device",
}
"""Paths that are given to the reader as they are."""
