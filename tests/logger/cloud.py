"""A W&B server on the loopback that remembers what it was sent, and deals out the runs of a sweep."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from typing import Any

import yaml

TYPES = ("QueryType", "MutationType", "ServerInfoType", "TypeInfo", "RunType")


@dataclass
class Cloud:
    """What a server was sent: operations with their variables, files with their bytes, streamed rows; and how it behaves.

    'answers', 'refuses' (401), 'swallows' (takes every connection and says nothing), 'dies' (says nothing once a run began),
    'loses' (accepts no file of a poison manifest). `left` are the runs of a sweep that no agent was given yet.
    """

    behaviour: str
    url: str = ""
    requests: int = 0
    operations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    sweep: str = ""
    left: list[dict[str, Any]] = field(default_factory=list)

    def variables(self, operation: str) -> list[dict[str, Any]]:
        """What came with each operation of this name."""
        return [variables for name, variables in self.operations if name == operation]

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        """By identifier: what is known of each run, later words over earlier ones."""
        found: dict[str, dict[str, Any]] = {}
        for sent in self.variables("UpsertBucket"):
            found.setdefault(sent["name"], {}).update({name: value for name, value in sent.items() if value is not None})
        return found

    def config(self, run: str) -> dict[str, Any]:
        """The configuration of a run as it would be shown."""
        return {name: entry["value"] for name, entry in json.loads(self.runs[run]["config"]).items() if name != "_wandb"}

    def summary(self, run: str) -> dict[str, Any]:
        """The summary of a run as it would be shown."""
        return json.loads(self.files[f"{run}/wandb-summary.json"])

    def table(self, run: str, name: str) -> dict[str, Any]:
        """A table that a row of a run refers to."""
        (row,) = [row for row in self.rows[run].values() if name in row]
        return json.loads(self.files[f"{run}/{row[name]['path']}"])

    def answer(self, operation: str, sent: dict[str, Any]) -> dict[str, Any]:
        """The least that the client asks for."""
        project = {"id": "p", "name": sent.get("project") or "p", "entity": {"id": "e", "name": "me"}}
        known = {
            "Viewer": lambda: {"viewer": {"id": "u", "entity": "me", "username": "me", "teams": {"edges": []}}},
            "UpsertBucket": lambda: {"upsertBucket": {"inserted": True, "bucket": self._bucket(sent, project)}},
            "CreateRunFiles": lambda: {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": self._places(sent)}},
            "CreateArtifact": lambda: {"createArtifact": {"artifact": self._artifact(sent)}},
            "CreateArtifactManifest": lambda: {"createArtifactManifest": {"artifactManifest": self._manifest()}},
            "CreateArtifactFiles": lambda: {"createArtifactFiles": {"files": {"edges": self._artifact_files(sent)}}},
            "CommitArtifact": lambda: {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}},
            "ServerFeaturesQuery": lambda: {"serverInfo": {"features": []}},
            "UpsertSweep": lambda: {"upsertSweep": {"sweep": self._new_sweep(sent, project), "configValidationWarnings": []}},
            "SweepWithRuns": lambda: {"project": {"sweep": self._told()}},
            "CreateAgent": lambda: {"createAgent": {"agent": {"id": "agent"}}},
            "Heartbeat": lambda: {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(self._commands(sent))}},
        }
        if operation in known:
            return known[operation]()
        return {name: {"fields": [], "inputFields": []} for name in TYPES}

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

    def _new_sweep(self, sent: dict[str, Any], project: dict[str, Any]) -> dict[str, Any]:
        """A sweep by grid: every combination of the values."""
        self.sweep = sent["config"]
        asked = yaml.safe_load(self.sweep)
        axes = {name: told["values"] if "values" in told else [told["value"]] for name, told in asked["parameters"].items()}
        whole = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
        self.left = [
            {
                "type": "run",
                "run_id": f"agents{number}",
                "program": asked["program"],
                "args": {key: {"value": value} for key, value in one.items()},
            }
            for number, one in enumerate(whole)
        ]
        return {"id": "SW", "name": "sweep1", "project": project}

    def _told(self) -> dict[str, Any]:
        return {"id": "SW", "name": "sweep1", "state": "RUNNING", "config": self.sweep, "runs": {"edges": []}}

    def _commands(self, sent: dict[str, Any]) -> list[dict[str, Any]]:
        """The next run for an agent that has none; the end once all were dealt out."""
        if json.loads(sent["runState"] or "{}"):
            return []
        return [self.left.pop(0)] if self.left else [{"type": "exit"}]


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
            told, run = json.loads(body), self.path.split("/")[-2]
            history = told.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            kept = self.cloud.rows.setdefault(run, {})
            kept.update(enumerate(map(json.loads, history["content"]), history["offset"]))
            if told.get("complete"):
                self.cloud.ended[run] = told["exitcode"]
        self._send({"exitcode": None, "limits": {}})


class Server(ThreadingHTTPServer):
    """Threads that nobody waits for, and no word about clients that hang up."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that was ended hangs up: that is what these tests are about."""


@contextmanager
def serving(behaviour: str) -> Iterator[Cloud]:
    """A server of this behaviour on a free port of the loopback, gone afterwards."""
    cloud = Cloud(behaviour)
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"cloud": cloud}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cloud.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield cloud
    finally:
        server.shutdown()
        server.server_close()
