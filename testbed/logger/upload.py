"""Sending runs that W&B kept offline to its server, within a time limit, by the client's own `wandb sync`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from urllib.parse import urlsplit

from testbed.logger.client import folders, last_line

KNOCK = 1.0
"""Seconds for a first connection to the server, name look-up included."""
ENDING = 2.0
"""Seconds that the client may take to end once everything has arrived."""
GLANCE = 0.1
"""Seconds between two looks at what has arrived."""


def upload(kept: Sequence[Path], server: str, patience: float, start: float = 0.0) -> dict[Path, str]:
    """Send runs that were kept offline, replacing what the server has of them: those that did not arrive, and why.

    A process of its own, because only that can be ended on time whatever the server does: when for `patience` seconds
    nothing arrived, or for `start` seconds more before the first.

    Raises:
        ConnectionError: the server was not reached, refused, or stopped taking anything.
    """
    knock(server)
    root = kept[0].parent
    for mark in (mark for run in kept for mark in (*run.glob("*.synced"), *run.glob("*.syncstate"))):
        mark.unlink()
    before = set(root.glob("logs/debug-sync.*.log"))
    chosen = {**os.environ, **folders(root, "", "online"), "WANDB_DIR": str(root.parent), "WANDB_SILENT": "false"}
    with TemporaryFile("w+") as said:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "wandb", "sync", *(f"wandb/{run.name}" for run in kept)],
            cwd=root.parent,
            env={name: value for name, value in chosen.items() if name not in ("WANDB_SERVICE", "WANDB_MODE")},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        late = _waited(child, kept, patience, start)
        lost = {**_unmarked(kept, said), **_lost(kept, set(root.glob("logs/debug-sync.*.log")) - before)}
    if late:
        raise ConnectionError(f"{server} had not taken it after {patience:g} s")
    return lost


def _waited(child: subprocess.Popen[bytes], kept: Sequence[Path], patience: float, start: float) -> bool:
    """Whether it had to be ended because nothing arrived any more; afterwards it and its own children have ended."""
    count, until = 0, time.monotonic() + patience + start
    try:
        while child.poll() is None and time.monotonic() < until:
            time.sleep(GLANCE)
            now = sum(arrived(run) for run in kept)
            if now == len(kept) > count:
                until = min(until, time.monotonic() + ENDING)
            elif now > count:
                until = time.monotonic() + patience
            count = now
        return child.poll() is None and count < len(kept)
    finally:
        with suppress(ProcessLookupError):  # it had ended by itself
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def arrived(run: Path) -> bool:
    """Whether the client marked a run as sent."""
    return any(run.glob("*.synced"))


def _unmarked(kept: Sequence[Path], said: IO[str]) -> dict[Path, str]:
    """Runs without the mark of having arrived, with the last of what was said: the mark tells, and not how the child ended."""
    said.seek(0)
    reason = last_line(said.read() or "wandb sync said nothing")
    return {run: reason for run in kept if not arrived(run)}


def _lost(kept: Sequence[Path], logs: Collection[Path]) -> dict[Path, str]:
    """Runs of which something was lost, by the client's log: `wandb sync` calls a run finished whose artifact was refused."""
    lines = [line for log in sorted(logs) for line in log.read_text("utf-8").splitlines() if '"msg":"sender: failed' in line]
    found = {run: line for line in lines for run in kept if run.name in line}
    for run in found:
        for mark in run.glob("*.synced"):
            mark.unlink()  # or else a later `wandb sync` would pass it by
    return {run: last_line(json.loads(line)["msg"]) for run, line in found.items()}


def knock(server: str) -> None:
    """Raises `ConnectionError` where nobody listens; in a thread, because a name look-up knows no time limit."""
    parts = urlsplit(server)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy)
    address = (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))
    outcome: list[str] = [f"{server} did not answer within {KNOCK:g} s"]

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=KNOCK).close()
            outcome.clear()
        except OSError as error:
            outcome[:] = [f"{server}: {error}"]

    knocking = threading.Thread(target=connect, daemon=True)
    knocking.start()
    knocking.join(KNOCK)
    if outcome:
        raise ConnectionError(outcome[0])
