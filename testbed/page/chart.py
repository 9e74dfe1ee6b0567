"""Charts as Vega-Lite specifications, made with altair; the page brings their data under names, shared between charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from testbed.leaderboard import Leaderboard
from testbed.page.markup import tag, text

if TYPE_CHECKING:
    import altair as alt

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Switch:
    """A choice beside a chart: the parameter that it sets, and its values with their names."""

    parameter: str
    label: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Chart:
    """`sets` are the rows that `specification` reads, by the names it knows them by; `caption` says what n is."""

    title: str
    caption: str
    specification: Mapping[str, Any]
    sets: Mapping[str, Rows]
    switches: Sequence[Switch] = field(default_factory=tuple)


def specified(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The specification without what the page decides: data, sizes by default, the address of a schema."""
    told: dict[str, Any] = chart.to_dict(context={"pre_transform": False})
    return {name: value for name, value in told.items() if name not in ("$schema", "config", "datasets")}


def parameters(switches: Sequence[Switch]) -> list[alt.Parameter]:
    """A parameter for each switch, with its first value, and the method that is marked."""
    import altair as alt

    chosen = [alt.param(name=switch.parameter, value=next(iter(switch.options), "")) for switch in switches]
    return [*chosen, alt.param(name="marked", value="")]


def inks() -> list[alt.Parameter]:
    """Colours that the page sets to those of the reader's theme."""
    import altair as alt

    return [alt.param(name=name, value="#888") for name in ("ink", "strong", "accent", "quiet")]


def seeds_told(board: Leaderboard) -> str:
    """'n = 3', the seeds of a cell, or from the least to the most."""
    found = [spread.interval.n for cell in board.cells for spread in cell.spreads.values()] or [0]
    least, most = min(found), max(found)
    return f"n = {most}" if least == most else f"n = {least} to {most}"


def choice(parameter: str, label: str, values: Sequence[str]) -> Switch:
    """A switch whose values are their own names; '' reads 'its own'."""
    return Switch(parameter, label, {value: value or "its own" for value in dict.fromkeys(values)})


def figure(chart: Chart, name: str) -> str:
    """The place of a chart, with its switches; those with one value are not shown."""
    shown = []
    for switch in chart.switches:
        options = [tag("option", text(label), value=value) for value, label in switch.options.items()]
        select = tag("select", *options, data_parameter=switch.parameter, aria_label=switch.label)
        shown.append(tag("label", text(switch.label), " ", select, hidden=len(switch.options) < 2 or None))
    controls = tag("div", *shown, class_="switches")
    canvas = tag("div", class_="chart", data_chart=name, role="group", aria_label=chart.title)
    return tag("figure", tag("h3", text(chart.title)), controls, canvas, tag("figcaption", text(chart.caption)))
