"""What code would try that had broken out of an unpickler: run by tests inside the reading process, in place of its reader."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from testbed.untrusted import header

AIM: dict[str, Any] = {}
"""Where to aim: filled in by whoever starts the process."""
TGKILL = 131 if platform.machine() == "aarch64" else 234
"""The number of the system call that signals one thread."""


def tried() -> dict[str, str]:
    """Each attempt by name, with what came of it: 'done', or the error."""
    here, port, parent = Path(AIM["folder"]), AIM["port"], AIM["parent"]
    attempts: dict[str, Callable[[], Any]] = {
        "write": lambda: (here / "marker").write_text("x"),
        "write to /tmp": lambda: Path("/tmp", f"marker-{parent}").write_text("x"),
        "append": lambda: (here / "secret").open("a"),
        "remove": (here / "secret").unlink,
        "rename": lambda: (here / "secret").rename(here / "moved"),
        "folder": (here / "made").mkdir,
        "link": lambda: (here / "linked").symlink_to("secret"),
        "read": (here / "secret").read_text,
        "list": lambda: os.listdir(here),
        "password file": lambda: Path("/etc/passwd").read_text(),
        "parent's memory": lambda: Path(f"/proc/{parent}/mem").read_bytes(),
        "parent's variables": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "own variables": _secret,
        "tcp": lambda: socket.create_connection(("127.0.0.1", port), timeout=2),
        "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)),
        "name": lambda: socket.getaddrinfo("example.invalid", 80),
        "listen": lambda: socket.create_server(("127.0.0.1", 0)),
        "local socket": lambda: socket.socket(socket.AF_UNIX).connect(str(here / "local")),
        "abstract socket": lambda: socket.socket(socket.AF_UNIX).connect(f"\0testbed-{parent}"),
        "start": lambda: os.posix_spawn("/bin/touch", ["touch", str(here / "marker")], {}),
        "become": lambda: os.execv("/bin/touch", ["touch", str(here / "marker")]),
        "fork": _fork,
        "end the parent": lambda: os.kill(parent, 0),
        "own users": lambda: _call("unshare", 0x10000000),
        "privileges": lambda: os.setuid(0) if os.getuid() else _call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
        "mode": lambda: os.chmod(here / "secret", 0o600),
        "mode of a folder": lambda: os.chmod(here, 0o700),
        "times": lambda: os.utime(here / "secret", (1, 1)),
        "owner": lambda: os.chown(here / "secret", os.getuid(), os.getgid()),
        "attributes": lambda: os.setxattr(here / "secret", "user.testbed", b"x"),
        "length": lambda: os.truncate(here / "secret", 6),
        "parent's limits": lambda: resource.prlimit(parent, resource.RLIMIT_CORE),
        "parent's priority": lambda: os.setpriority(os.PRIO_PROCESS, parent, os.getpriority(os.PRIO_PROCESS, 0)),
        "thread of the parent": lambda: _call("syscall", ctypes.c_long(TGKILL), parent, parent, 0),
        "shared memory": lambda: _call("shmget", 0, 4096, 0o600),
        "change what is read": lambda: os.pwrite(AIM["file"], b"x", 0),
        "reopen what is read": lambda: os.close(os.open(f"/proc/self/fd/{AIM['file']}", os.O_RDWR)),
        "memory": lambda: bytearray(AIM["memory"] + (64 << 20)),
        "large file": _fill,
    }
    return {name: _came_of(attempts[name]) for name in AIM.get("only", attempts)}


def read(order: dict[str, Any]) -> dict[str, Any]:
    """In place of `testbed.untrusted.child.read`: the attempts, as facts beside one tensor."""
    AIM["result"], AIM["file"] = order["tensors"], order["file"]
    found = tried()
    os.ftruncate(order["tensors"], 0)
    os.lseek(order["tensors"], 0, os.SEEK_SET)
    with os.fdopen(order["tensors"], "wb") as result:
        header.write(result, {"w": ("U8", (1,), 1)}, [b"x"])
    return {"kind": "safetensors", "facts": found}


def linger(order: dict[str, Any]) -> dict[str, Any]:
    """Leave the session, and never answer."""
    with suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


def crash(order: dict[str, Any]) -> dict[str, Any]:
    """Read where nothing is."""
    ctypes.string_at(0)
    return {}


def talk(order: dict[str, Any]) -> dict[str, Any]:
    """Say more than an answer may have."""
    while True:
        sys.stdout.write("x" * (1 << 20))


def lie(order: dict[str, Any]) -> dict[str, Any]:
    """A result that claims more than it holds."""
    with os.fdopen(order["tensors"], "wb") as result:
        header.write(result, {"w": ("F32", (1 << 20,), 4 << 20)}, [b"x"])
    return {"kind": "safetensors", "facts": {}}


def pretend(order: dict[str, Any]) -> dict[str, Any]:
    """An answer that is none."""
    return {"kind": "program", "facts": {"path": "/etc/passwd"}}


def _came_of(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except BaseException as error:
        return type(error).__name__
    return "done"


def _secret() -> str:
    return os.environ["TESTBED_SECRET"]


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _call(name: str, *arguments: Any) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _fill() -> None:
    for _ in range(4096):
        os.write(AIM["result"], bytes(1 << 20))
