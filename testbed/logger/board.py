"""A leaderboard as tables: methods with their ranks, cells with intervals and each seed, differences from the baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from testbed.leaderboard import Cell, Leaderboard, Standing
from testbed.logger.privacy import without_paths

STANDINGS, CELLS, DIFFERENCES, POPULATIONS = TABLES = ("leaderboard", "cells", "differences", "populations")
LABELS = ("world", "attack", "rate", "method")


def rows(board: Leaderboard, table: str) -> tuple[list[str], list[list[Any]]]:
    """The columns of a table and its rows without paths, None where a number is undefined; every number has its n."""
    made = {STANDINGS: _standings, CELLS: _cells, DIFFERENCES: _differences, POPULATIONS: _populations}[table](board)
    found = list(made)
    columns = list(dict.fromkeys(name for row in found for name in row))
    return columns, [[without_paths(row.get(name)) for name in columns] for row in found]


def digest(board: Leaderboard) -> str:
    """16 hexadecimal digits over all that is shown of it."""
    tables = [rows(board, name) for name in TABLES]
    told = (board.title, board.verb, board.hash, board.departures, board.clean_budget, len(board.missing), left_out(board))
    return hashlib.sha256(repr((told, tables)).encode()).hexdigest()[:16]


def left_out(board: Leaderboard) -> list[str]:
    """'digits badnets 0.05: why nobody is ranked by it' of each such row."""
    names = ((*row[:2], *([] if row[2] is None else [f"{row[2]:g}"])) for row in board.left_out)
    return [f"{' '.join(name)}: {why}" for name, why in zip(names, board.left_out.values(), strict=True)]


def _standings(board: Leaderboard) -> Iterator[dict[str, Any]]:
    """In the order of the board, the best first."""
    for standing in board.standings:
        yield {"method": standing.method, "world": standing.world or "all", **_ranks(standing), **_means(standing)}


def _ranks(standing: Standing) -> dict[str, Any]:
    counts = {"cells": standing.cells, "wanted": standing.wanted, "n": standing.n, "failed": standing.failed}
    return {"mean_rank": standing.mean_rank, "worst_rank": standing.worst_rank, **counts}


def _means(standing: Standing) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in dict.fromkeys((*standing.means, *standing.worst)):
        found |= {name: standing.means.get(name), f"{name}_worst": standing.worst.get(name)}
        found |= {f"{name}_partial": standing.partial[name]} if name in standing.partial else {}
    return {**found, "adaptive": "; ".join(standing.adaptive)}


def _cells(board: Leaderboard) -> Iterator[dict[str, Any]]:
    """One row a cell: each measure with Student's interval (Wilson's over trials), the guaranteed one, its n and its seeds."""
    for cell in board.cells:
        done = len(cell.done)
        state = {
            "weak": cell.weak,
            "unknown": cell.unknown,
            "counted": cell.counted,
            "rank": cell.rank,
            "done": done,
            "asked": len(cell.trials),
        }
        yield {**_labels(cell), **state, "not_done": _not_done(cell), **_spreads(cell)}


def _labels(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in LABELS}


def _not_done(cell: Cell) -> str:
    """'s1: failed (why)' of each run that did not end well."""
    trials = [trial for trial in cell.trials if trial.status != "done"]
    said = [f" ({trial.reason})" if trial.reason else "" for trial in trials]
    return "; ".join(f"{trial.turn}: {trial.status}{why}" for trial, why in zip(trials, said, strict=True))


def _spreads(cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, spread in cell.spreads.items():
        found |= _interval(name, spread.interval) | {f"{name}_seeds": _seeds(spread.seeds)}
        if spread.guaranteed is not None:
            found |= {f"{name}_guaranteed_low": spread.guaranteed.low, f"{name}_guaranteed_high": spread.guaranteed.high}
    return found


def _interval(name: str, interval: Sequence[Any]) -> dict[str, Any]:
    mean, low, high, n = interval
    return {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": n}


def _seeds(seeds: Mapping[int, float]) -> str:
    return " ".join(f"{seed}:{value:.4g}" for seed, value in sorted(seeds.items()))


def _differences(board: Leaderboard) -> Iterator[dict[str, Any]]:
    """One row a measure of a cell that was compared with the baseline."""
    for cell in board.cells:
        for name, contrast in cell.contrasts.items():
            yield {
                **_labels(cell),
                "measure": name,
                **_interval("difference", contrast.difference),
                "p": contrast.p,
                "p_corrected": contrast.corrected,
            }


def _populations(board: Leaderboard) -> Iterator[dict[str, Any]]:
    """One row a detector of backdoored models in a world."""
    for one in board.populations:
        row = {"world": one.world, "method": one.method, "clean": one.clean, "backdoored": one.backdoored}
        for name in ("auroc", "flagged_clean", "flagged_backdoored"):
            rate = getattr(one, name)
            row |= {} if rate is None else _interval(name, rate)
        yield row
