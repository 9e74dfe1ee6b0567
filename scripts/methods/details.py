"""All that was measured of one method: its claim, a table of its runs, the published numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from methods.difference import difference
from methods.header import Header, Published
from methods.labels import Cell, short, where
from methods.measured import MEASURES, MORE
from methods.said import number, spread
from testbed.rules import OUTCOME
from testbed.statistics import Interval, over_trials, separation
from testbed.table import trials_and_interval


def details(header: Header, cells: Sequence[Cell]) -> str:
    """A section."""
    told = [f"{header.what} ({header.paper})." if header.paper else f"{header.what}."]
    if header.claim:
        told.append(f"Claim: {header.claim} **{header.verdict[:1].upper()}{header.verdict[1:]}.**")
    if cells:
        told.append(_table(header.group, cells))
        told += [_population(cells)] if populations(cells) else []
    if header.here:
        told.append(f"In its file: *{header.here}*")
    told += ["\n".join(_published(line, cells) for line in header.published)] if header.published else []
    file = f"[{header.group}={header.name}](../conf/{header.group}/{header.name}.yaml)"
    return f'### <a name="{header.group}{header.name}"></a>{file}\n\n' + "\n\n".join(told) + "\n"


def _table(group: str, cells: Sequence[Cell]) -> str:
    """A row a cell: the mean over seeds, with each seed where they differ."""
    known = [name for name in (*MEASURES[group], *MORE[group]) if any(name in cell["measures"] for cell in cells)]
    rows = dict.fromkeys(f"| {where(cell, cells)} | {' | '.join(_value(cell, name) for name in known)} |" for cell in cells)
    heads = f"| | {' | '.join(map(short, known))} |"
    return "\n".join([heads, f"|{' --- |' * (len(known) + 1)}", *rows])


def _value(cell: Cell, name: str) -> str:
    """Of a targeted attack outcomes with their interval over trials, and of anything else the mean: trials are no seeds."""
    if cell["status"] != ["done"]:
        return ", ".join(cell["status"])
    values = cell["measures"].get(name)
    if values is None:
        return ""
    if not cell.get("targeted"):
        return spread(values)
    return trials_and_interval(values, over_trials(values)) if OUTCOME.fullmatch(name) else number(fmean(values))


def populations(cells: Sequence[Cell]) -> dict[str, Interval]:
    """Of a detector of models: its AUROC over clean and backdoored models for each attack, and last for all."""
    indices = {where(cell, cells): cell["measures"]["anomaly_index"] for cell in cells if "anomaly_index" in cell["measures"]}
    clean = [index for place, values in indices.items() if place.endswith(", none") for index in values]
    attacked = {place: values for place, values in indices.items() if not place.endswith(", none")}
    if len(attacked) > 1:
        attacked[f"{cells[0]['names'].get('data', '')}, all"] = [index for values in attacked.values() for index in values]
    found = {place: separation(clean, values) for place, values in attacked.items()}
    return {place: interval for place, interval in found.items() if interval is not None}


def _population(cells: Sequence[Cell]) -> str:
    told = "; ".join(
        f"{place} {number(one.mean)} [{number(one.low or 0.0)}, {number(one.high or 0.0)}]"
        for place, one in populations(cells).items()
    )
    models = sum(len(cell["measures"]["anomaly_index"]) for cell in cells if cell["names"].get("attack") == "none")
    return f"AUROC of the index over models, against {models} clean ones (Newcombe's interval): {told}."


def _published(line: Published, cells: Sequence[Cell]) -> str:
    told = ", ".join(f"{short(name)} {number(value)}" for name, value in line.numbers.items())
    found = difference(line, cells)
    return f"- Published, {line.setting}: {told} ({line.source})." + (f" Difference: {found}." if found else "")
