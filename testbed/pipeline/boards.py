"""Finished runs and the suites that asked for them -> leaderboards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from testbed.comparison import compared
from testbed.files import read_json
from testbed.identity import key
from testbed.index import entry
from testbed.leaderboard import Leaderboard, Trial
from testbed.leaderboard import Row as Place
from testbed.pipeline.gather import Cell, Gathered, Run, agreeing, unmixed
from testbed.pipeline.rows import difference, labels_of, verb_of
from testbed.plan import Request, Stored, stored
from testbed.rules import Rules, rules_of

PHASE = {"train": "defend", "detect": "detect", "degrade": "defend"}
"""The method's own phase, by verb."""
STALE = "its code or data were others than those of the runs beside it"
BASELINE = "none"
DOSES = ("attack.poison_rate", "attack.mix_rate", "attack.shots")
"""Settings that a place in the grid tells."""


@dataclass(frozen=True)
class Board:
    """A leaderboard with the runs behind each of its cells, and the folders of all runs that it speaks of."""

    leaderboard: Leaderboard
    cells: Mapping[tuple[Place, str], Cell]
    folders: frozenset[Path] = field(default_factory=frozenset)


def boards_of(root: Path, found: Gathered) -> list[Board]:
    """A board for each suite that was planned below `root`, then one a verb for the cells that no suite asked for."""
    suites = [board for suite in stored(root) if (board := _suite(root, suite, found))]
    return [*suites, *_loose(unclaimed(found, suites))]


def unclaimed(found: Gathered, boards: Sequence[Board]) -> Gathered:
    """What no suite asked for: runs, and cells of which one of these is counted."""
    claimed = _asked_for(boards) | _made_for(found, boards)
    runs = [run for run in found.runs if run.folder not in claimed]
    cells = [cell for cell in found.cells if any(run.folder not in claimed for run in cell.counted)]
    return Gathered(runs, cells, found.unread)


def not_counted(found: Gathered, boards: Sequence[Board]) -> Iterator[str]:
    """One line for each run that neither a suite names nor a row counts, with the reason."""
    named = _asked_for(boards)
    yield from found.not_counted(named)
    left_behind = _made_for(found, boards) - named - {run.folder for cell in found.cells for run in cell.stale}
    for run in found.runs:
        if run.done and run.folder in left_behind:
            yield f"not counted, the suite {run.facts['group']} asks for it no more: {run.folder.name}"


def _asked_for(boards: Sequence[Board]) -> set[Path]:
    return {folder for board in boards if board.leaderboard.hash for folder in board.folders}


def _made_for(found: Gathered, boards: Sequence[Board]) -> set[Path]:
    """The runs that one of these suites made, whether or not it still asks for them: code changes, and they are made again."""
    groups = {f"{board.leaderboard.title}-{board.leaderboard.hash}" for board in boards if board.leaderboard.hash}
    return {run.folder for run in found.runs if run.facts.get("group") in groups}


class Asked(NamedTuple):
    """A run that a suite asks for, with what became of it."""

    request: Request
    status: str
    reason: str
    run: Run | None


def _suite(root: Path, suite: Stored, found: Gathered) -> Board | None:
    """None where there is nothing to compare: no run was asked for."""
    if not suite.requests:
        return None
    by_key = {(str(run.facts["verb"]), str(run.facts["key"])): run for run in found.runs}
    asked = [_asked(root, request, by_key) for request in suite.requests]
    cells = agreeing(_kept(asked))
    counted = {run.folder for cell in cells.values() for run in cell.counted}
    trials = [_trial(one, counted) for one in asked]
    folders = frozenset(one.run.folder for one in asked if one.run is not None)
    return Board(compared(trials, rules_of(suite.suite, suite.departures)), cells, folders)


def _place(request: Request) -> Place:
    """World, attack and rate; settings that no suite asks for make another world: 'digits (trainer.max_epochs=1)'."""
    changed = f" ({', '.join(request.changed)})" if request.changed else ""
    return f"{request.world}{changed}", request.attack, request.rate


def _asked(root: Path, request: Request, runs: Mapping[tuple[str, str], Run]) -> Asked:
    known = entry(root, request.key)
    if known is None:
        return Asked(request, "missing", "", None)
    verb, _, name = known.folder.partition("/")
    run = runs.get((verb, name.rpartition("-")[2]))
    if run is not None:
        return Asked(request, str(run.result["status"]), str(run.result.get("reason") or ""), run)
    if known.folder and known.status == "done":
        return Asked(request, "missing", f"{known.folder} is not there any more", None)
    return Asked(request, known.status, known.reason, None)


def _kept(asked: Sequence[Asked]) -> dict[tuple[Place, str], Cell]:
    """The runs of each cell that are done, of one state of code and data only."""
    groups: dict[tuple[Place, str], list[Run]] = {}
    for request, _, _, run in asked:
        if run is not None and run.done:
            groups.setdefault((_place(request), request.method), []).append(run)
    return {place: unmixed(runs) for place, runs in groups.items()}


def _trial(asked: Asked, counted: set[Path]) -> Trial:
    request, status, reason, run = asked
    place = (*_place(request), request.method)
    if run is None:
        numbered = {"trial": request.trial, "targeted": request.targeted}
        return Trial(*place, request.seed, status, reason, declared=request.declared, **numbered)
    if run.done and run.folder not in counted:
        status, reason = "stale", STALE
    return Trial(*place, request.seed, status, reason, **_told(run), declared=request.declared)


def _told(run: Run) -> dict[str, Any]:
    """What a trial says beyond its place and its end."""
    facts = run.facts
    phase = PHASE[str(facts["verb"])]
    memory = facts.get("peak_memory", {})
    victims = facts.get("victims", {})
    return {
        "measures": run.measures,
        "counts": run.result["counts"],
        "seconds": facts.get("seconds", {}).get(phase),
        "peak_memory": memory.get(f"{phase}_gpu", memory.get(phase)),
        "folder": f"{run.folder.parent.name}/{run.folder.name}",
        "adaptive": run.measures.get("adaptive") is True,
        "poison": _poison(run),
        "data": key(contents=facts["contents"]),
        "model": str(victims.get("aligned", "")),
        "victims": victims,
        "names": facts["names"],
        "trial": run.trial,
        "targeted": run.measures.get("targeted") is True,
    }


def _poison(run: Run) -> str:
    """What tells the attacker's rows from others: the key of the stored poison, else the manifest's digest, else ''."""
    stored_poison = [name for part in ("reused", "made") for name in run.facts.get(part, []) if name.startswith("poison/")]
    if stored_poison:
        return str(min(stored_poison))
    manifest = run.folder / "manifest.json"
    return str(read_json(manifest).get("sha256", "")) if manifest.is_file() else ""


def _loose(left: Gathered) -> Iterator[Board]:
    bad: dict[str, list[Run]] = {}
    for run in left.failed():
        bad.setdefault(run.facts["cell"], []).append(run)
    for verb in PHASE:  # nothing is compared in pictures
        cells = {cell.first.facts["cell"]: cell for cell in left.cells if verb_of(cell) == verb}
        ended = {name: runs for name, runs in bad.items() if runs[0].facts["verb"] == verb}
        if cells:
            yield _plain(verb, cells, ended)


def _plain(verb: str, cells: Mapping[str, Cell], bad: Mapping[str, Sequence[Run]]) -> Board:
    """A board of whatever was run: cells by key, and runs that ended badly by the key of theirs."""
    present = {run.folder for cell in agreeing(cells).values() for run in cell.counted}
    everything = {**{name: Cell(list(runs), []) for name, runs in bad.items()}, **cells}
    places = _places(everything)
    trials = []
    for name, cell in everything.items():
        place, method = places[name]
        for run in (*(cell.counted if name in cells else ()), *bad.get(name, ())):
            status, reason = str(run.result["status"]), str(run.result.get("reason") or "")
            status, reason = ("stale", STALE) if run.done and run.folder not in present else (status, reason)
            trials.append(Trial(*place, method, run.seed, status, reason, **_told(run), declared=False))
    trials.sort(key=_order)
    baseline = BASELINE if any(trial.method == BASELINE for trial in trials) else None
    folders = frozenset(run.folder for cell in everything.values() for run in (*cell.counted, *cell.stale))
    return Board(compared(trials, Rules(verb, verb, baseline)), {places[name]: cell for name, cell in cells.items()}, folders)


def _order(trial: Trial) -> tuple[Any, ...]:
    """By world, attack, rate and method, what is without attack or defence first; then by seed and trial."""
    names = [(name != BASELINE, name) for name in (trial.attack, trial.method)]
    return trial.world, names[0], trial.rate or 0.0, names[1], trial.repetition


class Part(NamedTuple):
    """A part of a cell's place: its label, and the settings that are of it."""

    label: str
    settings: Mapping[str, Any]


def _places(cells: Mapping[str, Cell]) -> dict[str, tuple[Place, str]]:
    """World, attack, rate and method of each cell. Settings that differ stand with what they are of: no two are alike."""
    labels = {name: labels_of(cell) for name, cell in cells.items()}
    shared = {word for word in chain(*labels.values()) if len({str(its.get(word)) for its in labels.values()}) == 1}
    parts = {name: _parts(cell, labels[name], shared - {"data"}) for name, cell in cells.items()}
    worlds, attacks, methods = (_words({name: its[part] for name, its in parts.items()}) for part in range(3))
    found: dict[str, tuple[Place, str]] = {}
    for name in cells:
        rate = labels[name].get("rate", labels[name].get("mix_rate"))
        place = worlds[name], attacks[name], float(rate) if isinstance(rate, int | float) else None
        alike = (place, methods[name]) in found.values()
        found[name] = place, f"{methods[name]} [{name}]" if alike else methods[name]
    return found


def _words(parts: Mapping[str, Part]) -> dict[str, str]:
    """The label of each, and in brackets the settings in which those of the same label differ."""
    like: dict[str, dict[str, Mapping[str, Any]]] = {}
    for part in parts.values():
        like.setdefault(part.label, {})[repr(part.settings)] = part.settings
    found = {}
    for name, part in parts.items():
        told = difference(part.settings, list(like[part.label].values()))
        found[name] = f"{part.label} ({told})" if told else part.label
    return found


def _parts(cell: Cell, labels: Mapping[str, Any], shared: Set[str]) -> tuple[Part, Part, Part]:
    """World, attack and method; of the words that all worlds share none is told."""
    roots = {"attack": 1, "defence": 2, "detector": 2}
    settings: tuple[dict[str, Any], ...] = ({}, {}, {})
    for name, value in cell.first.settings.items():
        if name not in DOSES and (name != "name" or "name" in cell.first.config):  # a run without a configuration has a name
            settings[roots.get(name.partition(".")[0], 0)][name] = value
    method = "detector" if verb_of(cell) == "detect" else "defence"
    known = {"attack", "rate", "shots", "mix_rate", method} | shared
    world = " ".join(str(value) for name, value in labels.items() if name not in known)
    shots = labels.get("shots")
    attack = str(labels["attack"]) + ("" if shots is None else f" {shots} shots")
    return Part(world, settings[0]), Part(attack, settings[1]), Part(str(labels[method]), settings[2])
