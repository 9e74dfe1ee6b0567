"""Finished runs and leaderboards shown again by a logger, from their folders alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.api import Invalid
from testbed.files import read_json
from testbed.index import entry
from testbed.leaderboard import Leaderboard
from testbed.pipeline.boards import boards_of
from testbed.pipeline.gather import gathered
from testbed.pipeline.rows import COLUMNS
from testbed.plan import Request, stored
from testbed.record import facts, warn
from testbed.record import runs as committed


def sync(*, runs: str, paths: Mapping[str, str], logger: Any, group: str | None = None, anew: bool = False) -> int:
    """Show every finished run below `runs` and the leaderboard of every suite planned there: 1 if some could not be shown.

    `group` restricts it to one suite or sweep; `anew` also shows what was shown before and has not changed. Again replaces.

    Raises:
        Invalid: there is no finished run, none of this group, or the logger shows nothing.
    """
    root, outputs = Path(runs), Path(paths["outputs"])
    found, unread = finished(root)
    asked = _asked(found)
    disowned = _disowned(found, asked)
    chosen = {folder: asked[_run(folder)] for folder in found}
    if group is not None:
        chosen = {folder: suites for folder, suites in chosen.items() if _is_of(group, folder, suites)}
    if not chosen:
        limit = "there is no finished run below it" + ("" if group is None else f" of the group {group}")
        raise Invalid("runs", runs, limit, "run testbed train first")
    boards = {name: board for name, board in _boards(root, found).items() if group in (None, name)}
    tally = logger.rebuild(chosen, boards, outputs, anew=anew, disowned=disowned)
    print(
        f"{len(chosen)} runs, leaderboards: {len(boards)}; {tally.shown} shown, {tally.as_before} shown before, "
        f"{tally.failed + unread} not shown: {outputs / 'wandb'}"
    )
    return 1 if tally.failed + unread else 0


def finished(root: Path) -> tuple[list[Path], int]:
    """Every committed run below `root` once, however many folders hold it, and how many cannot be read.

    Done before not done, then the newest. Those that cannot be read are named on standard error.
    """
    best: dict[tuple[str, str], tuple[bool, str, Path]] = {}
    unread = 0
    for folder in committed(root):
        known, ended = facts(folder), _ended(folder)
        if known is None or ended is None:
            warn(f"not shown, made by an earlier version or damaged: {folder}")
            unread += 1
            continue
        rank, name = (ended == "done", known["made_at"], folder), (known["verb"], known["key"])
        best[name] = max(rank, best.get(name, rank))
    return sorted(folder for *_, folder in best.values()), unread


def _ended(folder: Path) -> str | None:
    """How a run ended; None where that cannot be read."""
    try:
        return str(read_json(folder / "result.json")["status"])
    except (OSError, ValueError, KeyError, TypeError):  # named by `finished`
        return None


def _asked(found: Sequence[Path]) -> dict[tuple[str, str], list[tuple[str, Request]]]:
    """By run: the suites that ask for it, each with what it asks for, by the plans and the index beside the runs."""
    asked = defaultdict(list)
    for outputs in dict.fromkeys(folder.parents[1] for folder in found):
        for plan in stored(outputs):
            for request in plan.requests:
                made = entry(outputs, request.key)
                if made is not None and made.folder:
                    asked[_run(outputs / made.folder)].append((f"{plan.suite.name}-{plan.suite.hash}", request))
    return asked


def _disowned(found: Sequence[Path], asked: Mapping[tuple[str, str], Sequence[tuple[str, Request]]]) -> set[Path]:
    """Runs made for a suite that is planned beside them and that does not ask for them any more: no board counts them."""
    homes = dict.fromkeys(folder.parents[1] for folder in found)
    planned = {f"{plan.suite.name}-{plan.suite.hash}" for outputs in homes for plan in stored(outputs)}
    made = {folder: str(read_json(folder / "run.json").get("group") or "") for folder in found}
    return {
        folder
        for folder, group in made.items()
        if group in planned and group not in (suite for suite, _ in asked.get(_run(folder), ()))
    }


def _run(folder: Path) -> tuple[str, str]:
    """The verb and the key of a run folder."""
    return folder.parent.name, folder.name.rpartition("-")[2]


def _is_of(group: str, folder: Path, asked: Sequence[tuple[str, Request]]) -> bool:
    return read_json(folder / "run.json")["group"] == group or any(suite == group for suite, _ in asked)


def _boards(root: Path, found: Sequence[Path]) -> dict[str, Leaderboard]:
    """By group: the leaderboard of each suite planned beside these runs, and one a verb of what no suite asked for."""
    homes = {folder.parents[1] for folder in found}
    home = homes.pop() if len(homes) == 1 else root
    boards = [board.leaderboard for board in boards_of(home, gathered(home, COLUMNS))]
    return {f"{board.title}-{board.hash}" if board.hash else board.title: board for board in boards}
