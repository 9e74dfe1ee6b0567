"""Sending a run that W&B kept offline to its server, within a time limit, and keeping the client to one folder."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

KNOCK = 1.0
"""Seconds for a first connection to the server, name look-up included."""


def upload(kept: Path, server: str, patience: float) -> None:
    """Send a run that was kept offline, replacing what the server has of it, by the client's own `wandb sync`.

    A process of its own, because only that can be ended on time whatever the server does.

    Raises:
        ConnectionError: the server was not reached, refused, or took longer than `patience` seconds.
    """
    _knock(server)
    outputs = kept.parent.parent
    chosen = {**os.environ, **folders(kept.parent, kept.name, "online"), "WANDB_DIR": str(outputs), "WANDB_SILENT": "false"}
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "wandb", "sync", str(kept)],
        cwd=outputs,
        env={name: value for name, value in chosen.items() if name not in ("WANDB_SERVICE", "WANDB_MODE")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = _said(child, patience)
    if not list(kept.glob("*.synced")):  # this mark, and not how the child ended, tells: it may be done and only slow to end
        late = f"{server} had not taken it after {patience:g} s"
        raise ConnectionError(
            late if said is None else last_line(said) or f"wandb sync ended with exit code {child.returncode}"
        )
    _verify(kept)


def _verify(kept: Path) -> None:
    """Raises `ConnectionError` where something was lost: `wandb sync` calls a run finished whose artifact was refused."""
    lines = [line for log in kept.parent.glob("logs/debug-sync.*.log") for line in log.read_text("utf-8").splitlines()]
    lost = [line for line in lines if kept.name in line and '"msg":"sender: failed' in line]
    if lost:
        for mark in kept.glob("*.synced"):
            mark.unlink()  # or else a later `wandb sync` would pass it by
        raise ConnectionError(json.loads(lost[-1])["msg"])


def _knock(server: str) -> None:
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


def _said(child: subprocess.Popen[str], patience: float) -> str | None:
    """All that a child says, or None where it takes longer; afterwards it and its own children have ended."""
    try:
        return child.communicate(timeout=patience)[0]
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):  # it had ended by itself
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def folders(root: Path, name: str, mode: str) -> dict[str, str]:
    """Environment variables that keep everything the client writes below `root`.

    Online, the user's own settings are read where `wandb login` left them.
    """
    chosen = {
        "WANDB_DATA_DIR": str(root / "data" / name),
        "WANDB_ARTIFACT_DIR": str(root / "data" / name),
        "WANDB_CACHE_DIR": str(root / "cache"),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
    }
    return chosen if mode == "online" else {**chosen, "WANDB_CONFIG_DIR": str(root / "config")}


@contextmanager
def environment(chosen: Mapping[str, str]) -> Iterator[None]:
    """These variables inside, as they were afterwards: other code and child processes never see them."""
    before = {name: os.environ.get(name) for name in (*chosen, "WANDB_SERVICE")}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def absent(module: str) -> Iterator[None]:
    """Importing this module fails inside, unless it was imported before.

    The client imports what starts jobs on other machines whenever a run begins, and does without if it cannot: its hundred
    pydantic models look through every module of PyTorch for their own source, which took two seconds of processor time.
    """
    known = module in sys.modules
    if not known:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not known:
            del sys.modules[module]


def last_line(problem: object) -> str:
    """The last line of what was said, without the client's prefix."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return re.sub(r"^(wandb: )?(ERROR |Error: )?", "", lines[-1]) if lines else type(problem).__name__
