"""docs/methods.md as text, from headers, records of runs, and what the code was seen to need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from methods.details import details, populations
from methods.difference import difference
from methods.header import GROUPS, Header
from methods.labels import Cell, short, under, where
from methods.said import number

TITLES = {"attack": "Attacks", "defence": "Defences", "detector": "Detectors"}
MAIN = {
    "attack": ("attack_success_rate", "clean_accuracy"),
    "defence": ("attack_success_rate", "clean_accuracy"),
    "detector": ("auroc", "queries_auroc"),
}
"""What the overview tells of a method: the first of these that its runs have, of a detector all."""
JUDGED = {"auroc": "rows", "queries_auroc": "queries"}
"""Of a detector that judges both."""
CLASSES = ((0.1, "C0"), (3.0, "C1"), (30.0, "C2"), (300.0, "C3"))
"""Seconds of the method's own phase on the data of its command, one thread: below these; above the last it is C4."""
HEAD = """# Methods

Made by `python scripts/methods write`; nothing here is typed by hand. What a method is, its claim and the published numbers
stand in its file in `conf/`; *needs* was seen at work in a small world (`scripts/methods/needs.py`), and what that world does
not call for is not seen; *here* are the runs of the command in that file, repeated by `python scripts/methods measure`.

*Cost* is the method's own phase in those runs, in seconds of a core that it did not always have to itself, so that the class
is what counts: {classes}.
*Difference* is ours minus the published, at the same poison rate; where an attack trains the model its rate here is a share of
each batch, and it stands beside any. Of a defence it is what it changed here and, in brackets, what it changed there. Other
data, other models and fewer rows: it shows signs and no more, and nothing here counts as a reproduction.

The overviews tell one number of a method: the success of an attack, what a defence makes of it, the AUROC of a detector (over
what the threat model says that it judges). Below each stands everything that was measured: the mean, with each seed in brackets
where they differ; of attacks on one target or pair of classes how the trials of one seed ended, with Wilson's interval. Where
no run of a method is kept, what its file says stands in italics.
"""
Records = Sequence[Cell]


def page(headers: Sequence[Header], records: Mapping[str, Records], seen: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page. `records` and `seen` are by '<group>/<name>'."""
    limits = ", ".join(f"{name} below {limit:g}" for limit, name in CLASSES)
    parts = [HEAD.format(classes=f"{limits}, C4 above")]
    for group in GROUPS:
        mine = [(header, records.get(f"{group}/{header.name}", ())) for header in headers if header.group == group]
        rows = [_row(header, cells, seen.get(f"{group}/{header.name}", {})) for header, cells in mine]
        parts += [f"## {TITLES[group]}\n", _table(rows)]
        parts += [f"## {TITLES[group]}: what was measured\n", *(details(header, cells) for header, cells in mine)]
    return "\n".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    names = ("method", "paper", "threat model", "needs", "cost", "its claim is", "here", "published", "difference")
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _row(header: Header, cells: Records, seen: Mapping[str, Any]) -> list[str]:
    own = [cell for cell in cells if cell["names"].get(header.group) == header.name] or cells
    told = [name for name in MAIN[header.group] if any(name in cell["measures"] for cell in own)] or MAIN[header.group]
    told = told if header.group == "detector" else told[:1]
    compared = [line for line in header.published if set(told) & line.numbers.keys()]
    return [
        f"[{header.name}](#{header.group}{header.name})",
        header.paper,
        ", ".join(seen.get("threat_model", ())),
        ", ".join(seen.get("needs", ())) or "nothing more",
        _cost(cells),
        header.verdict.partition(":")[0] or "–",
        "*as its file says*" if header.here and not cells else _here(header.group, own, told),
        "; ".join(f"{line.setting}: {_told(line.numbers, told, word=True)}" for line in compared) or "–",
        "; ".join(filter(None, (difference(header, line, cells, told) for line in compared))) or "–",
    ]


def _cost(cells: Records) -> str:
    """The cell that took longest: a run that found its work done tells nothing."""
    seconds = max((cell["seconds"] or 0.0 for cell in cells), default=0.0)
    if not seconds:
        return "–"
    kind = next((name for limit, name in CLASSES if seconds < limit), "C4")
    return f"{kind} ({seconds:.2g} s)" if seconds < 100 else f"{kind} ({seconds:.0f} s)"


def _here(group: str, cells: Records, names: Sequence[str]) -> str:
    """'success on digits: badnets 5 % .988 → .295; ...'; of a detector of models its AUROC over these."""
    if models := populations(cells):
        found = [(one.place, number(one.interval.mean)) for one in models]
    else:
        told = [cell for cell in cells if cell["status"] != ["done"] or set(names) & cell["measures"].keys()]
        found = [(_place(group, cell, cells), _of(cell, names)) for cell in told]
    by_data: dict[str, list[str]] = {}
    for place, told in dict.fromkeys(found):
        data, _, attack = place.partition(", ")
        by_data.setdefault(data, []).append(f"{attack} {told}")
    word = "AUROC" if group == "detector" else short(names[0])
    return "; ".join(f"{word} on {data}: {', '.join(told)}" for data, told in by_data.items()) or "–"


def _place(group: str, cell: Cell, cells: Records) -> str:
    """An attack succeeds alike whatever detector looks on."""
    if group != "attack":
        return where(cell, cells)
    return where(cell, [one for one in cells if one["names"].get("detector") == cell["names"].get("detector")]) + under(cell)


def _of(cell: Cell, names: Sequence[str]) -> str:
    if cell["status"] != ["done"]:
        return ", ".join(cell["status"])
    return _told({name: fmean(values) for name, values in cell["measures"].items()}, names)


def _told(numbers: Mapping[str, float], names: Sequence[str], *, word: bool = False) -> str:
    """'.988', where it is known what it was before a defence '.988 → .295', of rows and queries 'rows .934, queries .912'."""
    known = [name for name in names if name in numbers]
    if len(names) > 1 and not word:
        return ", ".join(f"{JUDGED[name]} {number(numbers[name])}" for name in known)
    return ", ".join(f"{f'{short(name)} ' if word else ''}{_change(numbers, name)}" for name in known)


def _change(numbers: Mapping[str, float], name: str) -> str:
    before = numbers.get(f"undefended_{name}")
    return f"{'' if before is None else f'{number(before)} → '}{number(numbers[name])}"
