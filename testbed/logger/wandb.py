"""Weights & Biases as a view of finished runs: rebuilt from the run folders, offline unless told, and never in a run's way."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.api import Invalid
from testbed.leaderboard import Leaderboard
from testbed.logger import ledger
from testbed.logger.client import View, keep, last_line, settle
from testbed.logger.finished import Finished
from testbed.logger.rebuild import Tally, rebuild
from testbed.logger.upload import upload
from testbed.logger.view import board_view, run_view
from testbed.plan import Request
from testbed.record import warn


@dataclass(frozen=True)
class WandbLogger:
    """Shows each committed run as a W&B run of its own, below `outputs/wandb`; online, it is uploaded from there.

    `mode` is 'offline' (no account, key or network needed), 'online' or 'disabled'. `entity` is the user or team; None is
    the account's own. `patience` in seconds is what an upload may take before the run is left offline, to be uploaded later.

    Raises:
        Invalid: another mode, or no patience at all.
    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "testbed"
    entity: str | None = None
    patience: float = 4.0

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online", "disabled"):
            raise Invalid("mode", self.mode, "must be offline, online or disabled")
        if not self.patience > 0:
            raise Invalid("patience", self.patience, "must be more than 0 seconds", "mode=offline needs none")

    def show(self, folder: Path, outputs: Path) -> None:
        """Show a committed run folder. What goes wrong costs one line on standard error and at most `patience` and a second."""
        self._show(lambda: run_view(Finished(folder)), "run", f"its folder is complete: {folder}", outputs)

    def show_board(self, board: Leaderboard, outputs: Path, group: str) -> None:
        """Show a leaderboard, in the place of the last one of its group; what goes wrong costs as little as with a run."""
        self._show(lambda: board_view(board, group), "leaderboard", f"to try again: testbed sync runs={outputs}", outputs)

    def rebuild(
        self,
        runs: Mapping[Path, Sequence[tuple[str, Request]]],
        boards: Mapping[str, Leaderboard],
        outputs: Path,
        *,
        anew: bool = False,
        disowned: Collection[Path] = (),
    ) -> Tally:
        """Show all these run folders, each with the suites that ask for it, and the leaderboard of each group.

        `disowned` runs are marked as stale: the suite that made them does not ask for them any more.
        What was shown already and has not changed is passed by, unless `anew`. Online, nothing arriving for `patience` seconds
        ends the uploading, once: everything is then kept offline. A line on standard error for each that is not shown.

        Raises:
            Invalid: the mode is 'disabled'.
            OSError: there is no room below `outputs`.
        """
        if self.mode == "disabled":
            raise Invalid("mode", self.mode, "shows nothing anywhere", "say offline or online", "logger")
        return rebuild(self, runs, boards, outputs.resolve(), anew=anew, disowned=disowned)

    def _show(self, make: Callable[[], View], subject: str, advice: str, outputs: Path) -> None:
        if self.mode == "disabled":
            return
        outputs = outputs.resolve()
        try:
            view = make()
            digest = ledger.digest(view, self.project, self.entity)
            if self.mode == "offline" and ledger.is_shown(view, digest, outputs):
                return
            kept, server = keep(view, outputs, self.mode, self.project, self.entity)
            if self.mode == "online":
                settle()  # or half of it would be sent
            ledger.remember(view, digest, outputs, kept)
        except (Exception, SystemExit) as error:  # a view must not harm what it shows, whatever the client or the disk does
            warn(f"W&B: this {subject} is not shown ({last_line(error)}); {advice}")
            return
        if self.mode == "online":
            try:
                if lost := upload([kept], server, self.patience):
                    raise ConnectionError(lost[kept])
                ledger.remember(view, digest, outputs, kept, server)
            except Exception as error:
                later = f"wandb sync {shlex.quote(str(kept))}"
                warn(f"W&B: this {subject} was kept offline ({last_line(error)}); to upload it later: {later}")
