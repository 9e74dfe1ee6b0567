"""Finished runs, read back and sorted into cells: runs of one kind that differ in their seed alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from testbed import plain_yaml
from testbed.files import Damaged, read_json
from testbed.identity import key
from testbed.plan import PLACES, begins
from testbed.record import changed, facts, require_sound, runs

NOT_SETTINGS = ("seed", "draw", "trial", "paths", "logger")
Name = TypeVar("Name")
REPETITION = re.compile(r"-s(\d+)(-d\d+)?(-t\d+)?$")


@dataclass(frozen=True)
class Run:
    """A finished run, as far as a table needs it."""

    folder: Path
    result: Mapping[str, Any]
    facts: Mapping[str, Any]
    config: Mapping[str, Any]
    seed: int

    @property
    def done(self) -> bool:
        return self.result["status"] == "done"

    @property
    def measures(self) -> Mapping[str, Any]:
        return self.result["measures"]

    @property
    def draw(self) -> int:
        """Which draw of the attack it is, where a model is attacked more than once."""
        return int(self.config.get("draw") or 0)

    @property
    def trial(self) -> int:
        """Which trial it is, of an attack on one target or pair of classes."""
        return int(self.config.get("trial") or 0)

    @property
    def model(self) -> str:
        """Which model was attacked: the aligned one, where that is known to be the same for several seeds."""
        return str(self.facts.get("victims", {}).get("aligned", f"seed {self.seed}"))

    @property
    def place(self) -> tuple[str, int, int, int]:
        """The settings, the seed, the draw and the trial: equal for a run and for its repetition with other code or data."""
        return self.facts["cell"], self.seed, self.draw, self.trial

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration by dotted key, without the seed and what changes no number."""
        kept = {name: value for name, value in self.config.items() if name not in NOT_SETTINGS}
        return _flat(kept) or {"name": REPETITION.sub("", self.facts["name"])}


@dataclass(frozen=True)
class Cell:
    """Runs that differ in seed (draw, trial) alone, in that order; `stale` are kept out: their code or data were others."""

    counted: list[Run]
    stale: list[Run]

    @property
    def first(self) -> Run:
        return self.counted[0]

    @property
    def seeds(self) -> list[list[Run]]:
        """The runs of each model that was attacked, its draws: those of a seed, or of all seeds that began with one model."""
        return [
            [run for run in self.counted if run.model == model] for model in dict.fromkeys(run.model for run in self.counted)
        ]


@dataclass(frozen=True)
class Gathered:
    """What lies below a folder: every run once, the cells of those that are done, and the folders that cannot be read."""

    runs: list[Run] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)

    def failed(self) -> list[Run]:
        """The runs that are not done, without those that went well the next time."""
        done: dict[tuple[str, int, int, int], str] = {}
        for run in filter(lambda run: run.done, self.runs):
            done[run.place] = max(run.facts["made_at"], done.get(run.place, ""))
        return [run for run in self.runs if not run.done and done.get(run.place, "") < run.facts["made_at"]]

    def not_counted(self, told: Collection[Path] = ()) -> Iterator[str]:
        """One line for each run that no row counts, with the reason; without those in the folders `told` of elsewhere."""
        for folder in self.unread:
            yield f"not counted, made by an earlier version: {folder.name}"
        for folder in self.damaged:
            yield f"not counted, its record is not what was written: {folder.name}"
        for run in self.failed():
            if run.folder not in told:
                yield f"not counted, {run.result['status']}: {run.folder.name}: {run.result.get('reason')}"
        for run in (run for cell in self.cells for run in cell.stale):
            if run.folder not in told:
                yield f"not counted, stale (its code or data were others): {run.folder.name}"


def gathered(root: Path, verbs: Collection[str]) -> Gathered:
    """All runs of these verbs below `root`."""
    found, unread, damaged = [], [], []
    for folder in runs(root):
        try:
            require_sound(folder)
            run = _read(folder)
        except Damaged:
            damaged.append(folder)
            continue
        except (OSError, ValueError, KeyError, yaml.YAMLError):  # named by `not_counted`
            unread.append(folder)
            continue
        if run.facts["verb"] in verbs:
            found.append(run)
    once = _once(found)
    cells: dict[str, list[Run]] = defaultdict(list)
    for run in once:
        if run.done:
            cells[run.facts["cell"]].append(run)
    return Gathered(once, [unmixed(members) for members in cells.values()], unread, damaged)


def _read(folder: Path) -> Run:
    """Raises OSError, ValueError or KeyError where something is missing that a table needs."""
    known, result = facts(folder), read_json(folder / "result.json")
    config = plain_yaml.read(folder / "config.yaml") or {}
    if known is None or not isinstance(result, dict) or not isinstance(config, dict):
        raise ValueError(f"{folder} holds no record of this version")
    if not result["status"] or not isinstance(result["measures"], dict) or not isinstance(result["counts"], dict):
        raise ValueError(f"{folder} holds no measures")
    named = REPETITION.search(known["name"])
    seed = config.get("seed", named and named[1])
    if seed is None:
        raise ValueError(f"{folder} has no seed")
    return Run(folder, result, known, config, int(seed))


def _once(found: Sequence[Run]) -> list[Run]:
    """Every key once, however many folders hold it: equal keys are equal runs. Done before not done, then the newest."""
    by_key: dict[str, Run] = {}
    for run in sorted(found, key=lambda run: (run.done, run.facts["made_at"])):
        by_key[run.facts["key"]] = run
    return sorted(by_key.values(), key=lambda run: run.folder)


def unmixed(members: Iterable[Run]) -> Cell:
    """Runs of the present code if there are any, and of these the kind (code and data) made last; never two kinds together."""
    kinds: dict[str, list[Run]] = defaultdict(list)
    for run in members:
        kinds[key(sources=run.facts["sources"], contents=run.facts["contents"])].append(run)
    chosen = max(kinds.values(), key=_newness)
    others = [run for kind in kinds.values() if kind is not chosen for run in kind]
    return Cell(sorted(chosen, key=lambda run: run.place), others)


def _newness(kind: Sequence[Run]) -> tuple[bool, str]:
    return not changed(kind[0].facts["sources"]), max(run.facts["made_at"] for run in kind)


def agreeing(cells: Mapping[Name, Cell]) -> dict[Name, Cell]:
    """Without the cells whose code or data are others than those of newer cells: what is ranked together is of one state.

    Cells of other methods have other sources; each module that two of them share, and data of the same settings, must be the
    same. The newest cell is right, and then the next one that agrees with all before it.
    """
    state: dict[str, str] = {}
    kept: set[Name] = set()
    codes = {name: key(sources=cell.first.facts["sources"]) for name, cell in cells.items()}
    present = {code: not changed(cells[name].first.facts["sources"]) for code, name in {codes[n]: n for n in cells}.items()}
    made = {name: max(run.facts["made_at"] for run in cell.counted) for name, cell in cells.items()}
    for name in sorted(cells, key=lambda name: (present[codes[name]], made[name]), reverse=True):
        its = _state(cells[name].first)
        if all(state.get(what, digest) == digest for what, digest in its.items()):
            state |= its
            kept.add(name)
    return {name: cell for name, cell in cells.items() if name in kept}


def _state(run: Run) -> dict[str, str]:
    """Digests by what they are of: modules, and the parts of the data of these settings."""
    given = run.config.get("data")
    asked = (
        {name: value for name, value in given.items() if not begins(f"data.{name}", PLACES)}
        if isinstance(given, Mapping)
        else given
    )
    data = key(data=run.facts["names"].get("data"), asked=asked)
    return {**run.facts["sources"], **{f"{data} {part}": digest for part, digest in run.facts["contents"].items()}}


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    found: dict[str, Any] = {}
    for name, value in node.items():
        found |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return found
