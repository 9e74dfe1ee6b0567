"""Finished runs and leaderboards as what W&B shows: curves, pictures, measures, tables; no weights, no data, no answers."""

from __future__ import annotations

import json
import os
from typing import Any

from testbed.leaderboard import Leaderboard
from testbed.logger.board import TABLES, digest, left_out, rows
from testbed.logger.client import View
from testbed.logger.finished import Finished
from testbed.logger.ledger import Shown
from testbed.logger.privacy import without_paths

STATE = {"done": 0, "skipped": 0}
"""Exit codes that W&B shows as finished; anything else is shown as failed."""
LONGEST_TAG = 64
STALE = "stale"
"""The tag of a run that the suite which made it does not ask for any more: its leaderboard does not count it."""


MANIFEST = "manifest.json"


def run_view(finished: Finished, shown: Shown | None = None) -> View:
    """A run, as it was shown before if it was; the agent of a W&B sweep names its run itself."""
    agents = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    return View(
        identifier=agents or (shown.identifier if shown else finished.identifier),
        name=finished.record["name"],
        group=finished.group,
        job_type=finished.record["verb"],
        tags=(*map(tag, finished.suites), *([STALE] if finished.stale else [])),
        configuration=lambda: finished.configuration,
        fill=lambda run: _fill(run, finished),
        exit_code=STATE.get(finished.result["status"], 1),
        digest=finished.digest,
        subject=str(finished.folder),
        of=finished.identifier,
        sweep=shown.sweep if shown else "",
    )


def board_view(board: Leaderboard, group: str) -> View:
    """A leaderboard, as a run of its own in its group."""
    identifier = f"leaderboard-{group}"
    told = {"title": board.title, "verb": board.verb, "suite_hash": board.hash, "clean_budget": board.clean_budget}
    whole = {**told, "baseline": board.baseline, "departures": board.departures, "left_out": left_out(board), "suites": [group]}
    return View(
        identifier=identifier,
        name=identifier,
        group=group,
        job_type="leaderboard",
        tags=(tag(group),),
        configuration=lambda: without_paths(whole),
        fill=lambda run: _fill_board(run, board),
        exit_code=0,
        digest=digest(board),
        subject=identifier,
        of=identifier,
    )


def tag(group: str) -> str:
    """The group, short enough for W&B: the hash at its end is kept."""
    if len(group) <= LONGEST_TAG:
        return group
    name, _, end = group.rpartition("-")
    return f"{name[: LONGEST_TAG - 1 - len(end)]}-{end}"


def _fill(run: Any, finished: Finished) -> None:
    """Curves, pictures, measures and the poison manifest."""
    import wandb

    run.define_metric("epoch", summary="none")
    for pattern in ("undefended*", "defended*", "clean_twin*"):
        run.define_metric(pattern, step_metric="epoch", summary="none")
    run.define_metric("figure/*", summary="none")  # not so tables: W&B draws them from the summary
    for row in finished.history:
        run.log(row)
    _fill_trajectory(run, finished)
    shown: dict[str, Any] = {
        f"figure/{path.stem}": wandb.Image(str(path)) for path in sorted(finished.folder.glob("figures/*.png"))
    }
    axes = ["false_positive_rate", "true_positive_rate"]
    for name, points in finished.roc_curves.items():
        table = wandb.Table(columns=axes, data=points.tolist())
        shown[f"roc/{name}"] = wandb.plot.line(table, x=axes[0], y=axes[1], title=f"ROC curve of {name}")
    if shown:
        run.log(shown)
    run.summary.update(finished.summary)
    if (finished.folder / MANIFEST).is_file():
        manifest = wandb.Artifact(f"manifest-{finished.record['key']}", type="poison-manifest")
        _add(manifest, json.loads((finished.folder / MANIFEST).read_text(encoding="utf-8")), finished)
        run.log_artifact(manifest)


def _add(artifact: Any, manifest: Any, finished: Finished) -> None:
    """The manifest as it is where it names no path, so that its bytes are those of the run folder."""
    shown = without_paths(manifest)
    if shown == manifest:
        artifact.add_file(str(finished.folder / MANIFEST))
        return
    with artifact.new_file(MANIFEST, encoding="utf-8") as stream:
        json.dump(shown, stream)


def _fill_trajectory(run: Any, finished: Finished) -> None:
    trajectory = finished.trajectory
    run.define_metric("tuning_step", summary="none")
    for name in {name for row in trajectory for name in row if name != "tuning_step"}:
        run.define_metric(name, step_metric="tuning_step", summary="none")
    for row in trajectory:
        run.log(row)


def _fill_board(run: Any, board: Leaderboard) -> None:
    import wandb

    tables = {name: rows(board, name) for name in TABLES}
    run.log({name: wandb.Table(columns=columns, data=data) for name, (columns, data) in tables.items() if data})
    run.summary.update({"n_cells": len(board.cells), "n_runs_wanted": board.wanted, "n_runs_done": board.done})
