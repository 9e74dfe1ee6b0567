"""A run of a grid, as it is handed to a launcher."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from testbed.plan import Request


@dataclass(frozen=True)
class Task:
    """A request with what its worker needs: where results go, how to compose it, its limits, and who waits for it."""

    request: Request
    outputs: str
    group: str
    stamp: str
    config_dir: str | None = None
    threads: int = 1
    timeout: float | None = None
    debug: bool = False
    driver: int = field(default_factory=os.getpid)

    @property
    def words(self) -> tuple[str, ...]:
        """The overrides of the run. Nobody shows it in W&B yet: a view of many is cheaper made in one go."""
        return (*self.request.overrides, "logger=none", f"paths.outputs={quoted(self.outputs)}")

    @property
    def log(self) -> Path:
        """Where everything goes that the run prints."""
        return Path(self.outputs) / "benchmark" / self.group / "log" / f"{self.request.key}.log"


def quoted(text: str) -> str:
    """A text as Hydra's grammar takes it for one value, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'" if set(text) & set(",='\"\\(){}[]: ") else text
