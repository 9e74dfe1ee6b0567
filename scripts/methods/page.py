"""docs/methods.md as text, from headers, records of runs, and what the code was seen to need."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isclose
from statistics import fmean
from typing import Any

from methods.header import GROUPS, Header, Published
from methods.measured import MEASURES, MORE
from methods.said import number, spread
from testbed.rules import OUTCOME
from testbed.statistics import over_trials
from testbed.table import trials_and_interval

TITLES = {"attack": "Attacks", "defence": "Defences", "detector": "Detectors"}
SHORT = {
    "attack_success_rate": "success",
    "clean_twin_attack_success_rate": "on the clean twin",
    "clean_accuracy": "clean accuracy",
    "clean_twin_clean_accuracy": "of the clean twin",
    "undefended_attack_success_rate": "undefended success",
    "undefended_clean_accuracy": "undefended accuracy",
    "robust_accuracy": "robust accuracy",
    "defence_effectiveness": "DER",
    "certified_accuracy_at_1": "certified accuracy at 1 row",
    "certified_radius_median": "median radius, rows",
    "auroc": "AUROC",
    "tpr_at_rule": "TPR at rule",
    "fpr_at_rule": "FPR at rule",
    "false_alarm_rate": "false alarms on clean twins",
    "queries_auroc": "AUROC of queries",
    "queries_tpr_at_rule": "TPR at rule of queries",
    "queries_fpr_at_rule": "FPR at rule of queries",
    "queries_false_alarm_rate": "false alarms of queries on clean twins",
    "target_flagged": "target flagged",
    "anomaly_index": "anomaly index",
    "flagged": "model flagged",
    "clean_twin_anomaly_index": "clean twin's index",
    "clean_twin_flagged": "clean twin flagged",
    "other_classes_flagged": "other classes flagged",
    "cover_sources_attack_success_rate": "from sources of cover rows",
    "other_sources_attack_success_rate": "from other sources",
}
CLASSES = ((0.1, "C0"), (3.0, "C1"), (30.0, "C2"), (300.0, "C3"))
"""Seconds of the method's own phase on the data of its command, one thread: below these; above the last it is C4."""
HEAD = """# Methods

Made by `python scripts/methods write`; nothing here is typed by hand. What a method is, its claim and the published numbers
stand in its file in `conf/`; *needs* was seen at work in a small world (`scripts/methods/needs.py`); *here* are the runs of the
command in that file (seeds in brackets; of attacks on one target or pair of classes how the trials of seed 0 ended, with
Wilson's interval), repeated by `python scripts/methods measure`, or where they were not repeated, in italics, what that file
says of them. *Cost* is the method's own phase in those runs, in seconds of one busy core: {classes}.
*Difference* is ours minus the published, where both have the measure at the same poison rate; of a defence it is what it
changed here and, in brackets, what it changed there. Other data, other models and fewer rows: it shows signs and no more, and
nothing here counts as a reproduction. Of *needs*, what the small world does not call for is not seen.
"""
Records = Mapping[str, Sequence[Mapping[str, Any]]]
Seen = Mapping[str, Mapping[str, Any]]


def page(
    headers: Sequence[Header], records: Mapping[str, Sequence[Mapping[str, Any]]], seen: Mapping[str, Mapping[str, Any]]
) -> str:
    """The whole page. `records` and `seen` are by '<group>/<name>'."""
    limits = ", ".join(f"{name} below {limit:g}" for limit, name in CLASSES)
    parts = [HEAD.format(classes=f"{limits}, C4 above")]
    for group in GROUPS:
        here = [header for header in headers if header.group == group]
        rows = [_row(header, records.get(_name(header), ()), seen.get(_name(header), {})) for header in here]
        parts += [f"## {TITLES[group]}\n", _table(rows)]
    return "\n".join(parts)


def _name(header: Header) -> str:
    return f"{header.group}/{header.name}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    names = ("method", "paper", "threat model", "needs", "cost", "claim", "here", "published", "difference")
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _row(header: Header, cells: Sequence[Mapping[str, Any]], seen: Mapping[str, Any]) -> list[str]:
    claim = f"{header.claim} **{header.verdict}**" if header.verdict else header.claim
    return [
        f"[{header.name}](../conf/{header.group}/{header.name}.yaml): {header.what}",
        header.paper,
        ", ".join(seen.get("threat_model", ())),
        ", ".join(seen.get("needs", ())) or "nothing more",
        _cost(cells),
        claim or "–",
        _here(header, cells),
        "; ".join(_as_published(line) for line in header.published) or "–",
        "; ".join(filter(None, (_difference(line, cells) for line in header.published))) or "–",
    ]


def _cost(cells: Sequence[Mapping[str, Any]]) -> str:
    """The cell that took longest: a run that found its work done tells nothing."""
    seconds = max((cell["seconds"] or 0.0 for cell in cells), default=0.0)
    if not seconds:
        return "–"
    kind = next((name for limit, name in CLASSES if seconds < limit), "C4")
    return f"{kind} ({seconds:.2g} s)" if seconds < 100 else f"{kind} ({seconds:.0f} s)"


def _here(header: Header, cells: Sequence[Mapping[str, Any]]) -> str:
    """Each cell once; cells of several detectors or defences say which."""
    groups = [group for group in ("defence", "detector") if len({cell["names"].get(group) for cell in cells}) > 1]
    told = [_told(header.group, cell, groups) for cell in cells]
    return "; ".join(dict.fromkeys(told)) or (f"*{header.here}*" if header.here else "–")


def _told(group: str, cell: Mapping[str, Any], others: Sequence[str]) -> str:
    """'digits, badnets 5 %, scan: success .988 (.978 .989 .997), ...'."""
    names, rate = cell["names"], cell["poison_rate"]
    where = f"{names.get('data', '')}, {names.get('attack', '')}" + (f" {100 * rate:g} %" if rate else "")
    where += "".join(f", {names[other]}" for other in others if other in names)
    if cell["status"] != ["done"]:
        return f"{where}: {', '.join(cell['status'])}"
    known = [name for name in (*MEASURES[group], *MORE[group]) if name in cell["measures"]]
    tell = _over_trials if cell.get("targeted") else lambda _, values: spread(values)
    told = (f"{SHORT[name]} {tell(name, cell['measures'][name])}" for name in known)
    return f"{where}: {', '.join(told)}"


def _over_trials(name: str, values: Sequence[float]) -> str:
    """Of a targeted attack: outcomes with their interval over trials; of anything else the mean, for trials are no seeds."""
    return trials_and_interval(values, over_trials(values)) if OUTCOME.fullmatch(name) else number(fmean(values))


def _as_published(line: Published) -> str:
    told = ", ".join(f"{SHORT.get(name, name.replace('_', ' '))} {number(value)}" for name, value in line.numbers.items())
    return f"{line.setting}: {told} ({line.source})"


def _difference(line: Published, cells: Sequence[Mapping[str, Any]]) -> str:
    cell = _match(line, cells)
    if cell is None:
        return ""
    ours = {name: fmean(cell["measures"][name]) for name in line.numbers if name in cell["measures"]}
    changes = {name: f"undefended_{name}" for name in ours if f"undefended_{name}" in ours}
    if changes:
        told = (
            f"{SHORT[name]} {_signed(ours[name] - ours[before])} ({_signed(line.numbers[name] - line.numbers[before])})"
            for name, before in changes.items()
        )
        return ", ".join(told)
    return ", ".join(f"{SHORT[name]} {_signed(value - line.numbers[name])}" for name, value in ours.items())


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def _match(line: Published, cells: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Of the cells at the published rate, the one whose attack is named; the only one, where none that there is is named."""
    plain, rate = _plain(line.setting), re.search(r"([\d.]+) %", line.setting)
    if rate:
        cells = [cell for cell in cells if not cell["poison_rate"] or isclose(100 * cell["poison_rate"], float(rate[1]))]
    named = [cell for cell in cells if _plain(str(cell["names"].get("attack", "?"))) in plain]
    if named:
        return max(named, key=lambda cell: len(str(cell["names"]["attack"])))
    return cells[0] if len(cells) == 1 else None


def _plain(words: str) -> str:
    return re.sub(r"[^a-z0-9]", "", words.lower())
