"""A finished run made by the recorder, and a W&B server on the loopback that remembers what it was sent."""

from __future__ import annotations

import gzip
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from PIL import Image

from testbed.record import Identity, Origin, Outcome, Workspace, recorded, write_json

KEY = "0123456789abcdef"
WEIGHTS = b"these are the weights of a victim"
ANSWERS = 0.123456789
CONFIG = {
    "seed": 3,
    "paths": {"outputs": "/home/somebody/outputs", "data": "/home/somebody/data"},
    "attack": {"_target_": "testbed.attack.backdoor.Backdoor", "poison_rate": 0.05, "target_label": 0},
    "logger": {"_target_": "testbed.logger.wandb.WandbLogger", "mode": "offline"},
}
MEASURES = {"clean_accuracy": 0.875, "attack_success_rate": 1.0, "fpr_at_rule": None, "flagged_classes": [1, 2]}
NAMES = {"attack": "badnets", "defence": "none", "data": "digits", "model": "small_cnn"}
CURVES = {"aa": [2.0, 0.5, 0.25], "bb": [2.0, 0.4]}


@pytest.fixture(autouse=True)
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of somebody without an account or a setting; the client forgets every session."""
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith(("WANDB_", "XDG_", "NETRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(home / "work")
    wandb.teardown()
    yield home
    wandb.teardown()


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Where runs are kept, with the victims that they used."""
    place = tmp_path / "outputs"
    for name, losses in CURVES.items():
        (place / "victim" / name).mkdir(parents=True)
        write_json(
            place / "victim" / name / "curve.json", [{"epoch": float(n), "loss": loss} for n, loss in enumerate(losses, 1)]
        )
        (place / "victim" / name / "model.safetensors").write_bytes(WEIGHTS)
    return place


@pytest.fixture
def run(outputs: Path) -> Callable[..., Path]:
    """Makes a committed run folder, as the pipelines do."""

    def make(*, verb: str = "train", seed: int = 3, group: str = "", outcome: str = "done") -> Path:
        def work(workspace: Workspace) -> Outcome:
            (workspace.folder / "figures").mkdir()
            Image.new("RGB", (16, 16), "red").save(workspace.folder / "figures" / "success.png")
            workspace.tensors("scores", scores=torch.arange(8.0), suspicious=torch.arange(8) % 3 == 2)
            workspace.tensors("answers", given=torch.full((4,), ANSWERS, dtype=torch.float64))
            workspace.write("manifest.json", {"indices": [4, 7], "backdoored": True})
            workspace.victims.update(undefended="aa", clean_twin="bb")
            return Outcome(outcome, None if outcome == "done" else "why", MEASURES, {"clean_accuracy": 400})

        identity = Identity(verb, f"badnets-none-digits-s{seed}", f"{KEY}{seed}", "settings", "cell", {}, {})
        return recorded(identity, outputs, Origin({**CONFIG, "seed": seed}, ("testbed",), NAMES, group), work)

    return make


@dataclass
class Cloud:
    """What a server was sent: operations with their variables, files with their bytes, streamed rows; and how it behaves.

    'answers', 'refuses' (401), 'swallows' (takes every connection and says nothing), 'dies' (says nothing once a run began),
    'loses' (accepts no file of an artifact).
    """

    behaviour: str
    url: str = ""
    requests: int = 0
    operations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)

    def variables(self, operation: str) -> list[dict[str, Any]]:
        """What came with each operation of this name."""
        return [variables for name, variables in self.operations if name == operation]

    def answer(self, operation: str, sent: dict[str, Any]) -> dict[str, Any]:
        """The least that the client asks for."""
        project = {"id": "p", "name": sent.get("project") or "p", "entity": {"id": "e", "name": "me"}}
        known = {
            "UpsertBucket": lambda: {"upsertBucket": {"inserted": True, "bucket": self._bucket(sent, project)}},
            "CreateRunFiles": lambda: {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": self._places(sent)}},
            "CreateArtifact": lambda: {"createArtifact": {"artifact": self._artifact(sent)}},
            "CreateArtifactManifest": lambda: {"createArtifactManifest": {"artifactManifest": self._manifest()}},
            "CreateArtifactFiles": lambda: {"createArtifactFiles": {"files": {"edges": self._artifact_files(sent)}}},
            "CommitArtifact": lambda: {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}},
            "ServerFeaturesQuery": lambda: {"serverInfo": {"features": []}},
        }
        return known.get(operation, dict)()

    def _bucket(self, sent: dict[str, Any], project: dict[str, Any]) -> dict[str, Any]:
        names = {"id": "b", "name": sent["name"], "displayName": sent.get("displayName"), "config": sent.get("config")}
        return {**names, "description": None, "sweepName": None, "historyLineCount": 0, "project": project}

    def _places(self, sent: dict[str, Any]) -> list[dict[str, str]]:
        return [{"name": name, "uploadUrl": f"{self.url}/put/{sent['run']}/{name}"} for name in sent["files"]]

    def _artifact(self, sent: dict[str, Any]) -> dict[str, Any]:
        return {"id": sent["input"]["artifactCollectionName"], "state": "PENDING", "artifactSequence": {"id": "s"}}

    def _manifest(self) -> dict[str, Any]:
        file = {"id": "f", "name": "m", "displayName": "m", "uploadUrl": f"{self.url}/put/contents", "uploadHeaders": []}
        return {"id": "m", "file": file}

    def _artifact_files(self, sent: dict[str, Any]) -> list[dict[str, Any]]:
        nodes = []
        for one in sent["input"]["artifactFiles"]:
            url = f"{self.url}/put/{one['artifactID']}/{one['name']}"
            nodes.append({"id": "f", "name": one["name"], "displayName": one["name"], "uploadUrl": url, "uploadHeaders": []})
        return [{"node": {**node, "storagePath": "s", "uploadMultipartUrls": None, "artifact": {"id": "a"}}} for node in nodes]


class Handler(BaseHTTPRequestHandler):
    """HTTP in front of a `Cloud`."""

    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        length, encoded = int(self.headers.get("Content-Length") or 0), self.headers.get("Content-Encoding") == "gzip"
        body = self.rfile.read(length)
        return gzip.decompress(body) if encoded else body

    def _send(self, value: Any, code: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.cloud.requests += 1
        self._send({})

    def do_PUT(self) -> None:
        self.cloud.requests += 1
        self.cloud.files[self.path.removeprefix("/put/")] = self._body()
        self._send({}, 403 if self.cloud.behaviour == "loses" and "manifest" in self.path else 200)

    def do_POST(self) -> None:
        cloud, body = self.cloud, self._body()
        cloud.requests += 1
        begun = cloud.behaviour == "dies" and bool(cloud.variables("UpsertBucket"))
        if cloud.behaviour == "swallows" or begun:
            time.sleep(20)
        if cloud.behaviour == "refuses":
            self._send({"errors": [{"message": "user is not logged in"}]}, 401)
        elif self.path.startswith("/graphql"):
            asked = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            name, sent = operation[1] if operation else "", asked.get("variables") or {}
            cloud.operations.append((name, sent))
            self._send({"data": cloud.answer(name, sent)})
        else:
            self._stream(body)

    def _stream(self, body: bytes) -> None:
        if self.path.endswith("/file_stream"):
            history = json.loads(body).get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            kept = self.cloud.rows.setdefault(self.path.split("/")[-2], {})
            kept.update(enumerate(map(json.loads, history["content"]), history["offset"]))
        self._send({"exitcode": None, "limits": {}})


class Server(ThreadingHTTPServer):
    """Threads that nobody waits for, and no word about clients that hang up."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that was ended hangs up: that is what these tests are about."""


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Cloud]]:
    """Starts a server of this behaviour, with which the client has an account."""
    servers = []

    def start(behaviour: str = "answers") -> Cloud:
        cloud = Cloud(behaviour)
        server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"cloud": cloud}))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cloud.url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", cloud.url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        return cloud

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
