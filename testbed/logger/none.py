"""No logger: the run folders are the record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NoLogger:
    """Shows nothing anywhere."""

    def show(self, folder: Path, outputs: Path) -> None:
        """Do nothing with a committed run folder."""
