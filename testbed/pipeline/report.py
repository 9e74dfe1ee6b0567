"""Tables over finished runs: a row a cell of the comparison, means over seeds, every seed beside its mean."""

from __future__ import annotations

import csv
import io
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from testbed.api import Invalid
from testbed.identity import key
from testbed.record import changed, read_json
from testbed.record import runs as run_folders
from testbed.statistics import over_seeds
from testbed.table import print_rows

COLUMNS = {
    "train": [
        "clean_accuracy",
        "attack_success_rate",
        "robust_accuracy",
        "undefended_attack_success_rate",
        "clean_twin_attack_success_rate",
        "defence_effectiveness",
    ],
    "detect": [
        "auroc",
        "tpr_at_fpr_05",
        "tpr_at_rule",
        "false_alarm_rate",
        "anomaly_index",
        "target_flagged",
        "other_classes_flagged",
        "attack_success_rate",
    ],
}
NOT_SETTINGS = ("seed", "paths", "logger")


@dataclass
class Run:
    """A finished run, as far as a table needs it."""

    folder: Path
    result: Mapping[str, Any]
    facts: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", self.facts["name"].rpartition("-s")[2]))

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration by dotted key, without the seed and what changes no number."""
        kept = {name: value for name, value in self.config.items() if name not in NOT_SETTINGS}
        return _flat(kept) or {"name": self.facts["name"].rpartition("-s")[0]}

    @property
    def cell(self) -> str:
        return self.facts["cell"]


@dataclass
class Cell:
    """Runs that differ in their seed alone, and those kept out because their code or data were others."""

    counted: list[Run] = field(default_factory=list)
    stale: list[Run] = field(default_factory=list)


def report(
    *, runs: str, paths: Mapping[str, str], measures: list[str] | None, format: Literal["table", "markdown", "csv"]
) -> int:
    """Print a table for every verb that left runs below `runs`; runs that are not done, and stale ones, are named beneath.

    Raises:
        Invalid: there is no run.
    """
    folders = run_folders(Path(runs))
    found = [run for run in map(_read, folders) if run.facts["verb"] in COLUMNS]
    if not found:
        raise Invalid("runs", runs, "there is no finished run below it", "run testbed train first")
    cells: dict[str, list[Run]] = defaultdict(list)
    for run in found:
        if run.result["status"] == "done":
            cells[run.cell].append(run)
    sorted_out = [_unmixed(members) for members in cells.values()]
    for verb, columns in COLUMNS.items():
        rows = list(_rows([cell for cell in sorted_out if cell.counted[0].facts["verb"] == verb], measures or columns))
        if rows:
            _print(verb, rows, format)
    _name_others(found, sorted_out)
    return 0


def _read(folder: Path) -> Run:
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) or {}
    return Run(folder, read_json(folder / "result.json"), read_json(folder / "run.json"), config)


def _unmixed(members: Sequence[Run]) -> Cell:
    """Runs of the present code if there are any, otherwise of the code and data that made most; never two kinds together."""
    kinds: dict[str, list[Run]] = defaultdict(list)
    for run in members:
        kinds[key(sources=run.facts["sources"], contents=run.facts["contents"])].append(run)
    chosen = max(kinds.values(), key=lambda kind: (not changed(kind[0].facts["sources"]), len(kind)))
    return Cell(chosen, [run for run in members if run not in chosen])


def _rows(cells: Sequence[Cell], columns: Sequence[str]) -> Iterable[dict[str, Any]]:
    labels = [_label(cell.counted[0]) for cell in cells]
    for cell, label in sorted(zip(cells, labels, strict=True), key=lambda pair: [str(part) for part in pair[1].values()]):
        like = [other.counted[0].settings for other, its in zip(cells, labels, strict=True) if its == label]
        row: dict[str, Any] = {**label, "other settings": _difference(cell.counted[0].settings, like)}
        ordered = sorted(cell.counted, key=lambda run: run.seed)
        row["n"] = len(ordered)
        for column in columns:
            values = [run.result["measures"].get(column) for run in ordered]
            known = [float(value) for value in values if isinstance(value, int | float)]
            row[column] = (over_seeds(known), values) if known else None
        yield {name: value for name, value in row.items() if name != "other settings" or len(like) > 1}


def _label(run: Run) -> dict[str, Any]:
    names, settings = run.facts["names"], run.settings
    method = "detector" if run.facts["verb"] == "detect" else "defence"
    label = {"data": names.get("data"), "model": names.get("model"), "attack": names.get("attack")}
    label["rate"] = settings.get("attack.poison_rate") if label["attack"] != "none" else None
    chosen = names.get(method, run.facts["name"])
    if (method == "defence" and "${detector}" in str(run.config.get("defence", ""))) or chosen in ("filter", "reject"):
        chosen = f"{chosen}({names.get('detector')})"
    return {**label, method: chosen}


def _difference(mine: Mapping[str, Any], like: Sequence[Mapping[str, Any]]) -> str:
    keys = sorted({name for settings in like for name in settings})
    varying = [name for name in keys if len({str(settings.get(name)) for settings in like}) > 1]
    return ", ".join(f"{name}={mine.get(name)}" for name in varying)


def _print(verb: str, rows: list[dict[str, Any]], format: str) -> None:
    if format == "table":
        print_rows(verb, rows)
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    flat = [{name: _cell(row.get(name)) for name in names} for row in rows]
    if format == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        print(stream.getvalue(), end="")
        return
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in flat:
        print(f"| {' | '.join(row.values())} |")


def _cell(value: Any) -> str:
    if not isinstance(value, tuple):
        return "" if value is None else str(value)
    interval, seeds = value
    each = " ".join("-" if seed is None else f"{seed:.3f}" for seed in seeds)
    half = "" if interval.low is None else f" ± {interval.high - interval.mean:.3f}"
    return f"{interval.mean:.3f}{half} ({each})"


def _name_others(found: Sequence[Run], cells: Sequence[Cell]) -> None:
    done = {(run.cell, run.seed) for run in found if run.result["status"] == "done"}
    for run in found:
        if run.result["status"] != "done" and (run.cell, run.seed) not in done:
            print(f"not counted, {run.result['status']}: {run.folder.name}: {run.result['reason']}", file=sys.stderr)
    for cell in cells:
        for run in cell.stale:
            print(f"not counted, stale (its code or data were others): {run.folder.name}", file=sys.stderr)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    found: dict[str, Any] = {}
    for name, value in node.items():
        found |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return found
