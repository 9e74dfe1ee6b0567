"""Whatever is written is marked and stays below the outputs, nothing of the marks is trained on, and nobody is connected to."""

from __future__ import annotations

import ast
import json
import threading
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from small_runs import COMMANDS
from watching import install, seen

from testbed.files import read_json
from testbed.marks import SIGN, mark_of

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "testbed").rglob("*.py"))

WRITERS = {
    "artefact": "victims, poisons",
    "checkpointing": "what a killed training goes on from",
    "data.cache": "clean images, decoded",
    "model.export": "a victim as a Hugging Face folder",
    "record": "answers and scores of a run, which are no weights",
    "replay": "clean rows that an attack replaced",
    "tensor_file": "what those that are named here give it, with their mark",
    "untrusted.child": "a probe of what loading does, in a child that may write nowhere",
}
"""Modules that write files of tensors: who adds one says here what it writes, and marks it."""
SAVING = {"save_file", "save_model", "save_pretrained", "torch.save", "np.save", "numpy.save", "np.savez", "save_to_disk"}
SAVING |= {"save_tensors", "save_network"}
PUBLISHING = {
    *("push_to_hub", "HfApi", "create_repo", "create_commit", "upload_file", "upload_folder", "upload_large_folder"),
    *("CommitOperationAdd", "hf_hub_upload", "use_artifact", "put_object", "upload_blob"),
}
NETWORKING = {
    "judge.openai_compatible": "the address that a user names",
    "logger.upload": "W&B's server, where a user says online",
    "library": "a model that a user asks for with download=true",
    "model.torchvision": "torchvision's own weights, with weights=pretrained",
}
"""Modules that open connections, and to whom."""
TOLD_ELSEWHERE = {
    *("config.yaml", "result.json", "run.json", "digests.json", "curve.json", "points.json", "trajectory.csv"),
    *("answers.safetensors", "scores.safetensors", "original.safetensors"),
}
"""Files of numbers and settings: no text of a model or an attacker in them, and no weights."""


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "testbed").with_suffix("").parts)


@cache
def _tree(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_bytes())))


def _called(path: Path) -> set[str]:
    """What a file calls, by the last name and by the last two."""
    called = [ast.unparse(node.func).split(".") for node in _tree(path) if isinstance(node, ast.Call)]
    return {".".join(words[-count:]) for words in called for count in (1, 2)}


def _named(path: Path) -> set[str]:
    """Every name, attribute and keyword in a file."""
    found = {node.id for node in _tree(path) if isinstance(node, ast.Name)}
    found |= {node.attr for node in _tree(path) if isinstance(node, ast.Attribute)}
    return found | {node.arg for node in _tree(path) if isinstance(node, ast.keyword) and node.arg}


def _imported(path: Path) -> set[str]:
    found = {alias.name for node in _tree(path) if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module or "" for node in _tree(path) if isinstance(node, ast.ImportFrom)}


def test_files_of_tensors_are_written_where_marks_are_known_of() -> None:
    assert {_module(path) for path in SOURCES if SAVING & _called(path)} <= set(WRITERS)


def test_no_code_that_is_shipped_publishes_anything() -> None:
    shipped = [*SOURCES, *sorted((ROOT / "scripts").rglob("*.py"))]
    assert {path: found for path in shipped if (found := _named(path) & PUBLISHING)} == {}


def test_connections_are_opened_where_a_user_asked_for_them() -> None:
    clients = {"urllib.request", "http.client", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "huggingface_hub"}
    assert {_module(path) for path in SOURCES if clients & _imported(path)} == set(NETWORKING)


def test_uploading_is_off_until_a_user_says_otherwise() -> None:
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        said = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        assert said.get("mode", "offline") == "offline" or "logger" not in path.parts, path
        assert said.get("download", False) is False, path


@pytest.fixture(scope="module")
def written(small_run: Callable[[str], Path], small_outputs: Path) -> Path:
    """The outputs of a run of each kind, of which the chat model's keeps its weights at every step."""
    assert all(small_run(kind).is_dir() for kind in COMMANDS)
    return small_outputs


def test_every_file_of_weights_carries_the_mark_and_has_a_card_beside_it(written: Path) -> None:
    outputs = written
    manifests = {read_json(path)["manifest_sha256"] for path in outputs.glob("*/*/manifest.json")}
    marked = []
    for path in sorted(outputs.rglob("*.safetensors")):
        if path.name in TOLD_ELSEWHERE:
            continue
        with safe_open(path, "pt") as stored:
            said = stored.metadata() or {}
        assert said["do_not_deploy"] == "true" and SIGN.decode() in said["canary"], path
        if path.name == "poison.safetensors":
            continue
        assert said["backdoored"] in ("true", "false"), path
        assert said["manifest_sha256"] in (manifests if said["backdoored"] == "true" else {"none"}), path
        assert said["attack"].startswith("testbed.attack.") is (said["backdoored"] == "true"), path
        card = (path.parent / "README.md").read_text(encoding="utf-8")
        front, _, body = card.removeprefix("---\n").partition("---\n")
        tags = ["backdoor", "research-only"] if said["backdoored"] == "true" else ["research-only"]
        assert yaml.safe_load(front)["tags"] == tags and SIGN.decode() in card
        assert body.startswith("**BACKDOORED" if said["backdoored"] == "true" else "Trained for comparison only")
        assert said["manifest_sha256"] == "none" or said["manifest_sha256"] in card
        marked.append((path.name, said["backdoored"]))
    assert set(marked) >= {("model.safetensors", "true"), ("model.safetensors", "false")}
    assert list(outputs.glob("degrade/*/checkpoints/*/model.safetensors"))


def test_every_text_of_a_model_or_an_attacker_carries_the_canary(written: Path) -> None:
    outputs = written
    files = [path for path in outputs.rglob("*") if path.is_file() and ".locks" not in path.parts]
    unmarked = {path.name for path in files if mark_of(path) is None and "index" not in path.relative_to(outputs).parts}
    assert unmarked <= TOLD_ELSEWHERE
    kinds = {path.name for path in files} - unmarked
    assert {"answers.jsonl", "manifest.json", "poison.json", "original.json", "card.json", "README.md"} <= kinds
    assert {"success.json", "success.png", "trajectory.png"} <= kinds


def test_the_canary_is_never_trained_on(written: Path, rows_trained_on: list[Any]) -> None:
    trained = rows_trained_on
    texts = [batch for batch in trained if isinstance(batch.inputs, list)]
    assert len(texts) >= 4 and sum(len(batch.labels) for batch in texts) > 500 and len(trained) > len(texts)
    for batch in texts:
        labels = batch.labels.tolist() if isinstance(batch.labels, torch.Tensor) else batch.labels
        said = json.dumps([batch.inputs, labels]).lower()
        assert SIGN.decode() not in said and "canary" not in said


def test_the_manifest_is_on_the_disk_before_anything_is_trained_on_poison(written: Path) -> None:
    outputs = written
    for run in outputs.glob("*/*/manifest.json"):
        manifest = read_json(run)
        made = [outputs / name for name in read_json(run.parent / "run.json")["made"] if name.startswith("victim/")]
        poisoned = [path for path in made if read_json(path / "card.json")["backdoored"]]
        poisoned += [path.parent for path in run.parent.glob("checkpoints/*/card.json")]
        assert poisoned or manifest["data"]["kind"] == "chat"
        for victim in poisoned:
            assert (victim / "model.safetensors").stat().st_mtime_ns > run.stat().st_mtime_ns
        for stored in ("poison", "originals"):
            if manifest["stored"][stored]:
                assert (outputs / manifest["stored"][stored] / "digests.json").stat().st_mtime_ns <= run.stat().st_mtime_ns


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy on this machine that notes who is asked for, also by programs that are no Python."""
    asked: list[str] = []

    class Noting(BaseHTTPRequestHandler):
        def _note(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        do_GET = do_POST = do_CONNECT = do_PUT = _note

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Noting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def _local(address: str) -> bool:
    return address.startswith(("/", "b'", "('127.", "('::1'", "\\x00")) or address in ("localhost", "127.0.0.1", "::1")


@pytest.mark.parametrize(
    "words",
    [
        "train data=digits attack=badnets trainer.max_epochs=1",
        pytest.param("detect data=toy_reviews attack=badnets_text detector=onion trainer.max_epochs=1", marks=pytest.mark.slow),
        pytest.param(COMMANDS["chat"], marks=pytest.mark.slow),
    ],
)
def test_a_run_connects_to_nobody_and_writes_below_its_outputs_alone(
    words: str, spawn: Callable[..., Any], environment: dict[str, str], proxy: tuple[str, list[str]], here: Path
) -> None:
    watched, (address, asked) = here.parent / f"{here.name}-watched", proxy
    variables = install(watched)
    variables |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), address)
    variables["PYTHONPATH"] = f"{watched / 'site'}:{environment['PYTHONPATH']}"
    said = spawn(*words.split(), "paths.outputs=out", **variables)
    assert said.code == 0, said.err
    connected = [each for each in (*seen(watched, "connect"), *seen(watched, "look up")) if not _local(each)]
    assert connected == [] and asked == []
    allowed = (here / "out", watched / "tmp", Path("/dev/null"), Path("/dev/shm"), Path("/dev/tty"))
    writes = {Path(each) for each in seen(watched, "write")}
    assert len(writes) > 20  # the hooks were at work
    trial = f"{here}/.testbed-"  # an empty folder that tries whether one can write where the outputs are to be
    outside = {path for path in writes if not any(path.is_relative_to(place) for place in allowed)}
    assert {path for path in outside if not str(path).startswith(trial)} <= {here}  # which is there: a mkdir of what is there
    # What no hook of Python's sees (libraries in C, Rust and Go) would have left something in one of these.
    assert {path.name for path in here.iterdir()} == {"out"}
    assert list((watched / "home").rglob("*")) == [] and list((watched / "tmp").rglob("*")) == []


def test_the_watcher_sees_a_write_and_a_connection(spawn: Callable[..., Any], environment: dict[str, str], here: Path) -> None:
    import subprocess
    import sys

    watched = here / "watched"
    variables = {**environment, **install(watched), "PYTHONPATH": str(watched / "site")}
    code = (
        "import socket\nopen('mine', 'w').close()\ntry: socket.create_connection(('127.0.0.2', 9), 0.2)\nexcept OSError: pass"
    )
    subprocess.run([sys.executable, "-c", code], cwd=here, env=variables, check=True)
    assert seen(watched, "write") == [str((here / "mine").resolve())] and "('127.0.0.2', 9)" in seen(watched, "connect")
