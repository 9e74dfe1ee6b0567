"""What a hostile file is, and what its payload may do: make one empty file, or knock at a port of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Aim(NamedTuple):
    """Where payloads aim: the folder that markers would appear in, and a port of the loopback interface."""

    markers: Path
    port: int

    def marker(self, name: str) -> str:
        return str(self.markers / f"{name}.marker")

    def command(self, name: str) -> str:
        return f"touch {self.marker(name)}"

    def code(self, name: str) -> str:
        return f"open({self.marker(name)!r}, 'w').close()"


class Case(NamedTuple):
    """One file or folder: its name, what it would do, what must become of it, and how it is made.

    `expected` is 'refused' (for safety), 'invalid' (bad input) or 'read' (as harmless data). `careless` names the loader in
    whose hands the payload works, for the control that it does; '' where there is none to be had.
    """

    name: str
    does: str
    expected: str
    make: Callable[[Path, Aim], None]
    careless: str = ""


def content(make: Callable[[Aim], bytes]) -> Callable[[Path, Aim], None]:
    """A file of these bytes."""

    def made(place: Path, aim: Aim) -> None:
        place.write_bytes(make(aim))

    return made
