"""Our numbers beside published ones, where both are about the same poison rate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isclose
from statistics import fmean

from methods.header import Header, Published
from methods.labels import Cell, short, signed


def difference(header: Header, line: Published, cells: Sequence[Cell], names: Sequence[str] = ()) -> str:
    """'success +.101', of a defence what it changed here and there: 'success −.693 (−.875)'; '' where nothing is comparable.

    Of these measures, or of all that both have.
    """
    cell = _match(header, line, cells)
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


def _match(header: Header, line: Published, cells: Sequence[Cell]) -> Cell | None:
    """The one cell at the published rate that is of the published attack: on an attack's page its own, elsewhere the named one.

    Where cells differ in defence or detector, the line names that too. An attack without a rate here, as it controls training,
    stands beside any. None where the line has no rate, or does not decide.
    """
    rate = re.search(r"([\d.]+) %", line.setting)
    if rate is None:
        return None
    found = [cell for cell in cells if not cell["poison_rate"] or isclose(100 * cell["poison_rate"], float(rate[1]))]
    attack = header.name if header.group == "attack" else _named(line, "attack", found)
    found = [cell for cell in found if cell["names"].get("attack") == attack]
    for group, otherwise in (("defence", "none"), ("detector", "")):
        if len({cell["names"].get(group) for cell in found}) > 1:
            named = _named(line, group, found) or otherwise
            found = [cell for cell in found if cell["names"].get(group) == named]
    return found[0] if len(found) == 1 else None


def _named(line: Published, group: str, cells: Sequence[Cell]) -> str:
    """Of the names that these cells have the longest that the line mentions: 'badnets' or 'badnets_all_to_all'."""
    names = sorted({str(cell["names"].get(group, "?")) for cell in cells})
    return max((name for name in names if _plain(name) in _plain(line.setting)), key=len, default="")


def _plain(words: str) -> str:
    return re.sub(r"[^a-z0-9]", "", words.lower())
