"""No logger: the run folders are the record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from testbed.api import Invalid

if TYPE_CHECKING:
    from testbed.leaderboard import Leaderboard  # which costs a run 0.7 s of SciPy


@dataclass(frozen=True)
class NoLogger:
    """Shows nothing anywhere."""

    def show(self, folder: Path, outputs: Path) -> None:
        """Do nothing with a committed run folder."""

    def show_board(self, board: Leaderboard, outputs: Path, group: str) -> None:
        """Do nothing with a leaderboard."""

    def rebuild(self, runs: Any, boards: Any, outputs: Path, *, anew: bool = False, disowned: Any = ()) -> NoReturn:
        """Raises `Invalid`: there is nowhere to show anything."""
        raise Invalid("logger", "none", "shows nothing anywhere", "say logger=wandb")
