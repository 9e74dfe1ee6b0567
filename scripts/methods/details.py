"""All that was measured of one method: its claim, a table of its runs, the published numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from methods.difference import difference
from methods.header import Header, Published
from methods.labels import Cell, short, under, where
from methods.measured import MEASURES, MORE
from methods.said import number, spread
from testbed.rules import OUTCOME
from testbed.statistics import Interval, over_trials, separation
from testbed.table import of_trials


def details(header: Header, cells: Sequence[Cell]) -> str:
    """A section."""
    told = [f"{header.what} ({header.paper})." if header.paper else f"{header.what}."]
    if header.claim:
        told.append(f"Claim: {header.claim} **{header.verdict[:1].upper()}{header.verdict[1:]}.**")
    if cells:
        told.append(_table(header.group, cells))
        told += [_population(found)] if (found := populations(cells)) else []
    if header.here:
        told.append(f"In its file: *{header.here}*")
    told += ["\n".join(_published(header, line, cells) for line in header.published)] if header.published else []
    file = f"[{header.group}={header.name}](../conf/{header.group}/{header.name}.yaml)"
    return f'### <a name="{header.group}{header.name}"></a>{file}\n\n' + "\n\n".join(told) + "\n"


def _table(group: str, cells: Sequence[Cell]) -> str:
    """A row a cell: the mean over seeds, with each seed where they differ; cells in which not all was done say so."""
    known = [name for name in (*MEASURES[group], *MORE[group]) if any(name in cell["measures"] for cell in cells)]
    columns = [*map(short, known), *(["status"] if any(cell["status"] != ["done"] for cell in cells) else [])]
    rows = []
    for cell in cells:
        place = where(cell, cells) + (under(cell) if group == "attack" else "")
        values = [*(_value(cell, name) for name in known), ", ".join(cell["status"])]
        rows.append(f"| {place} | {' | '.join(values[: len(columns)])} |")
    return "\n".join([f"| | {' | '.join(columns)} |", f"|{' --- |' * (len(columns) + 1)}", *dict.fromkeys(rows)])


def _value(cell: Cell, name: str) -> str:
    """Of a targeted attack outcomes with their interval over trials, and of anything else the mean: trials are no seeds."""
    values = cell["measures"].get(name)
    if values is None:
        return ""
    if not cell.get("targeted"):
        return spread(values)
    if not OUTCOME.fullmatch(name):
        return number(fmean(values))
    low, high = over_trials(values)[1:3]
    told = of_trials(values) if " of " in of_trials(values) else f"{number(fmean(values))} over {of_trials(values)}"
    return f"{told} [{number(low or 0.0)}, {number(high or 0.0)}]"


class Population(NamedTuple):
    """Attacked models on one data set beside the clean ones: how well an index tells them apart."""

    place: str
    interval: Interval
    clean: int


def populations(cells: Sequence[Cell]) -> list[Population]:
    """Of a detector of models: its AUROC over clean and backdoored models, by data set, for each attack and for all."""
    found = []
    known = [cell for cell in cells if "anomaly_index" in cell["measures"]]
    several = len({cell["names"].get("detector") for cell in known}) > 1
    for data, detector in dict.fromkeys((cell["names"].get("data"), cell["names"].get("detector")) for cell in known):
        here = [cell for cell in known if (cell["names"].get("data"), cell["names"].get("detector")) == (data, detector)]
        clean = [index for cell in here if cell["names"].get("attack") == "none" for index in cell["measures"]["anomaly_index"]]
        attacked = {where(cell, cells): cell["measures"]["anomaly_index"] for cell in here if cell["names"]["attack"] != "none"}
        if len(attacked) > 1:
            whole = f"{data}, all, {detector}" if several else f"{data}, all"
            attacked[whole] = [index for values in attacked.values() for index in values]
        intervals = ((place, separation(clean, values)) for place, values in attacked.items())
        found += [Population(place, interval, len(clean)) for place, interval in intervals if interval is not None]
    return found


def _population(found: Sequence[Population]) -> str:
    told = "; ".join(
        f"{place} {number(one.mean)} [{number(one.low or 0.0)}, {number(one.high or 0.0)}] (n = {clean} + {one.n - clean})"
        for place, one, clean in found
    )
    return f"AUROC of the index over models, clean + backdoored, with Newcombe's interval: {told}."


def _published(header: Header, line: Published, cells: Sequence[Cell]) -> str:
    told = ", ".join(f"{short(name)} {number(value)}" for name, value in line.numbers.items())
    found = difference(header, line, cells)
    return f"- Published, {line.setting}: {told} ({line.source})." + (f" Difference: {found}." if found else "")
