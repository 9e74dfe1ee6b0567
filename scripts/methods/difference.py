"""Our numbers beside published ones, where both are about the same poison rate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isclose
from statistics import fmean

from methods.header import Published
from methods.labels import Cell, short, signed


def difference(line: Published, cells: Sequence[Cell], names: Sequence[str] = ()) -> str:
    """'success +.101', of a defence what it changed here and there: 'success −.693 (−.875)'; '' where nothing is comparable.

    Of these measures, or of all that both have.
    """
    cell = _match(line, cells)
    if cell is None:
        return ""
    ours = {name: fmean(values) for name, values in cell["measures"].items()}
    both = [name for name in names or line.numbers if name in ours and name in line.numbers]
    changes = [name for name in both if f"undefended_{name}" in ours and f"undefended_{name}" in line.numbers]
    if changes:
        return ", ".join(f"{short(name)} {_change(ours, name)} ({_change(line.numbers, name)})" for name in changes)
    return ", ".join(f"{short(name)} {signed(ours[name] - line.numbers[name])}" for name in both)


def _change(numbers: Mapping[str, float], name: str) -> str:
    return signed(numbers[name] - numbers[f"undefended_{name}"])


def _match(line: Published, cells: Sequence[Cell]) -> Cell | None:
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
