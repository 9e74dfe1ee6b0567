"""Everything in W&B again, from the run folders alone: in batches, so that an interruption costs one of them at most."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from testbed.leaderboard import Leaderboard
from testbed.lock import lock
from testbed.logger import ledger
from testbed.logger.client import View, keep, last_line, server, settle, writable
from testbed.logger.finished import Finished
from testbed.logger.upload import arrived, knock, upload
from testbed.logger.view import board_view, run_view
from testbed.plan import Request
from testbed.record import warn

BATCH = 50
"""Views that are written, sent and booked together."""
START = 20.0
"""Seconds, beside its patience, that the client may take to begin to send."""


class Tally(NamedTuple):
    """How many runs and leaderboards were shown now, were shown before and have not changed, and are not shown."""

    shown: int
    as_before: int
    failed: int


class Settings(Protocol):
    """How a logger shows."""

    @property
    def mode(self) -> str: ...
    @property
    def project(self) -> str: ...
    @property
    def entity(self) -> str | None: ...
    @property
    def patience(self) -> float: ...


def rebuild(
    settings: Settings,
    runs: Mapping[Path, Sequence[tuple[str, Request]]],
    boards: Mapping[str, Leaderboard],
    outputs: Path,
    *,
    anew: bool,
    disowned: Collection[Path] = (),
) -> Tally:
    """Show these run folders, each with the suites that ask for it, and these leaderboards, each in its group.

    `disowned` are those that the suite which made them does not ask for any more.
    """
    root = writable(outputs / "wandb")
    with lock(root / "sync", warn):
        place = server(outputs) if settings.mode == "online" else ""
        found = [Finished(folder, tuple(asked), folder in disowned) for folder, asked in runs.items()]
        makers = list(_makers(found, boards, outputs))
        views = {view: ledger.digest(view, settings.project, settings.entity) for view in _made(makers)}
        open_ = {view: digest for view, digest in views.items() if anew or not ledger.is_shown(view, digest, outputs, place)}
        shown = _shown(settings, open_, outputs, place)
    before = len(views) - len(open_)
    return Tally(shown, before, len(makers) - before - shown)


def _makers(
    runs: Sequence[Finished], boards: Mapping[str, Leaderboard], outputs: Path
) -> Iterator[tuple[str, Callable[[], View]]]:
    """What makes each view, and what it is of. A run that agents of W&B sweeps asked for is shown as their runs."""
    known = ledger.by_run(outputs)
    for finished in runs:
        home, name = finished.folder.parent.name, finished.folder.name
        as_agents = [one for one in known.get(f"{home}-{name.rpartition('-')[2]}", ()) if one.sweep]
        for shown in as_agents or (None,):
            yield str(finished.folder), partial(run_view, finished, shown)
    for group, board in boards.items():
        yield f"the leaderboard of {group}", partial(board_view, board, group)


def _made(makers: Sequence[tuple[str, Callable[[], View]]]) -> Iterator[View]:
    for subject, make in makers:
        try:
            yield make()
        except Exception as error:  # a folder that cannot be read must not keep the others from being shown
            _say(subject, error)


def _shown(settings: Settings, views: Mapping[View, str], outputs: Path, place: str) -> int:
    """How many of these views were shown, a batch after the other."""
    waiting, done, gone = list(views), 0, _unreachable(place)
    for first in range(0, len(waiting), BATCH):
        kept = _kept(settings, waiting[first : first + BATCH], outputs)
        lost: dict[Path, str] = {}
        if place and kept and not gone:
            try:
                lost = upload(list(kept), place, settings.patience, START)
            except ConnectionError as error:  # it would be the same for all that follow
                gone = last_line(error)
        for folder, view in kept.items():
            sent = bool(place) and folder not in lost and arrived(folder)
            ledger.remember(view, views[view], outputs, folder, place if sent else "")
            done += sent or not place
            if folder in lost:
                _say(view.subject, lost[folder])
    if gone and waiting:
        warn(f"W&B: {len(waiting) - done} were kept offline ({gone}); to send them, run the same command again")
    return done


def _unreachable(place: str) -> str:
    """Why nothing can be sent; '' where it can, or need not."""
    try:
        if place:
            knock(place)
    except ConnectionError as error:
        return last_line(error)
    return ""


def _kept(settings: Settings, views: Sequence[View], outputs: Path) -> dict[Path, View]:
    """Views that are whole on the disk, each by its folder there."""
    found = {}
    for view in views:
        try:
            found[keep(view, outputs, settings.mode, settings.project, settings.entity).folder] = view
        except (Exception, SystemExit) as error:  # one view's fault must not keep the others from being shown
            _say(view.subject, error)
    if found:
        settle()
    return found


def _say(subject: str, problem: object) -> None:
    warn(f"W&B: not shown ({last_line(problem)}): {subject}")
