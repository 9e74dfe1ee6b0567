"""What happens while a file is read: markers, changed files, connections, and what this process does; nothing is believed."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "socket.sendto",
    "pickle.find_class",
    "ctypes.dlopen",
)


class Door:
    """A port of the loopback interface that counts who knocks, by TCP and by UDP."""

    def __init__(self) -> None:
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.tcp.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.port))
        for end in (self.tcp, self.udp):
            end.setblocking(False)

    def knocks(self) -> int:
        """How often somebody knocked since this was last asked."""
        found = 0
        while True:
            try:
                self.tcp.accept()[0].close()
                found += 1
            except BlockingIOError:
                break
        while True:
            try:
                self.udp.recvfrom(64)
                found += 1
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.tcp.close()
        self.udp.close()


class Deeds:
    """Python's audit events of this process that a reader has no business with, while `watching`.

    The reading process starts as a child by `subprocess`; its files without names lie in `temporary`. All else counts.
    """

    def __init__(self, temporary: Path) -> None:
        self.temporary, self.watching = str(temporary), False
        self.found: list[str] = []
        sys.addaudithook(self._heard)  # cannot be taken away again: `watching` is the switch

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event == "open":
            path, _, flags = arguments
            by_name = isinstance(path, str) and isinstance(flags, int)  # not what is open already, such as a pipe to the child
            if by_name and flags & WRITING and not path.startswith((self.temporary, os.devnull)):
                self.found.append(f"open {path}")
        elif event == "subprocess.Popen" and arguments[0] != sys.executable:
            self.found.append(f"start {arguments[0]}")
        elif event in FORBIDDEN:
            self.found.append(event)


def state(folders: Iterable[Path]) -> dict[str, tuple[int, int, int]]:
    """Every path below these folders with its kind, size and time: what was written, made or removed shows as a difference."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            seen = path.lstat()
            found[str(path)] = (seen.st_mode, seen.st_size, seen.st_mtime_ns)
    return found
