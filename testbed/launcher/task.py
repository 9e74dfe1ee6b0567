"""A run of a grid, as it is handed to a launcher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testbed.plan import Request


@dataclass(frozen=True)
class Task:
    """A request with what its worker needs: where results go, how to compose it, and its limits."""

    request: Request
    outputs: str
    group: str
    stamp: str
    config_dir: str | None = None
    threads: int = 1
    timeout: float | None = None
    debug: bool = False
    more: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The overrides of the run."""
        return (*self.request.overrides, *self.more, f"paths.outputs={self.outputs}")

    @property
    def log(self) -> Path:
        """Where everything goes that the run prints."""
        return Path(self.outputs) / "benchmark" / self.group / "log" / f"{self.request.key}.log"
