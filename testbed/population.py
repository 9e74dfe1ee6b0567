"""Detectors of backdoored models over a population of models: one model gives no statistic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from testbed.leaderboard import Cell, Population, Trial
from testbed.plan import CLEAN
from testbed.statistics import Interval, separation, wilson

Judged = dict[str, tuple[float, bool | None]]
"""By model: its anomaly index, and whether it was flagged; None where the detector has no rule by which it flags."""


def populations(cells: Sequence[Cell]) -> list[Population]:
    """For each world and detector: the victims of attacks against the models that nobody attacked, each model once."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if {"anomaly_index", "clean_twin_anomaly_index"} <= cell.spreads.keys():
            groups.setdefault((cell.world, cell.method), []).append(cell)
    return [_population(world, method, members) for (world, method), members in groups.items()]


def _population(world: str, method: str, cells: Sequence[Cell]) -> Population:
    clean: Judged = {}
    backdoored: Judged = {}
    for cell in cells:
        done = cell.done
        clean |= _judged("clean_twin", done)
        backdoored |= {} if cell.attack == CLEAN or cell.weak or cell.unknown else _judged("undefended", done)
    auroc = separation([index for index, _ in clean.values()], [index for index, _ in backdoored.values()])
    return Population(world, method, auroc, len(clean), len(backdoored), _flagged(clean), _flagged(backdoored))


def _judged(role: str, trials: Iterable[Trial]) -> Judged:
    """The models of a role; one whose key no run tells is that of its row and seed."""
    prefix = "clean_twin_" if role == "clean_twin" else ""
    found = {}
    for trial in trials:
        row = (*trial.row, *trial.repetition) if role == "undefended" else (trial.world, trial.seed)
        name = trial.victims.get(role, str(row))
        found[name] = float(trial.measures[f"{prefix}anomaly_index"]), _flags(prefix, trial)
    return found


def _flags(prefix: str, trial: Trial) -> bool | None:
    """A detector with one score for a model flags it as such, if it has a rule; others flag classes of it."""
    whole, classes = (trial.measures.get(f"{prefix}{name}") for name in ("flagged", "flagged_classes"))
    if whole is not None:
        return bool(whole)
    return None if classes is None or trial.counts.get("anomaly_index") == 1 else bool(classes)


def _flagged(judged: Judged) -> Interval | None:
    told = [flagged for _, flagged in judged.values() if flagged is not None]
    return wilson(sum(told) / len(told), len(told)) if told else None
