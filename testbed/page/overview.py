"""Charts of any board: the heat map of attacks and methods, safety against utility, curves over the rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from testbed.leaderboard import Leaderboard
from testbed.page.chart import Chart, Switch, choice, inks, parameters, seeds_told, specified
from testbed.page.measure import Measure
from testbed.page.place import worlds
from testbed.page.points import of_cells, of_seeds
from testbed.page.scatter import scatter
from testbed.page.standings import ordered
from testbed.plan import CLEAN

DOSES = {"degrade": "shots or mixing rate (log scale)"}
STEP = 38
"""Pixels of a row of the heat map."""


def overview(board: Leaderboard, measures: Sequence[Measure], number: int) -> list[Chart]:
    """The charts for which a board has numbers."""
    if not measures:
        return []
    names = {"cells": f"cells{number}", "seeds": f"seeds{number}"}
    cells, seeds = of_cells(board, measures), of_seeds(board, measures)
    charts = [_heat_map(board, measures, names["cells"], cells), scatter(board, measures, number)]
    charts += [_curves(board, measures, names, (cells, seeds))] if _several_rates(board) else []
    return [chart for chart in charts if chart is not None]


def _measures(measures: Sequence[Measure]) -> Switch:
    return Switch("measure", "show", {measure.name: f"{measure.title}{measure.unit}" for measure in measures})


def _heat_map(board: Leaderboard, measures: Sequence[Measure], name: str, rows: list[dict[str, Any]]) -> Chart:
    import altair as alt

    rates = [f"{cell.rate:g}" for cell in board.cells if cell.rate is not None]
    switches = [_measures(measures), choice("world", "on", worlds(board)), choice("rate", "rate", rates or [""])]
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    methods = list(dict.fromkeys([*(row.method for row in ordered(board)), *(cell.method for cell in board.cells)]))
    base = (
        alt.Chart(alt.NamedData(name))
        .transform_filter("datum.measure == measure && datum.world == world && (datum.rate == rate || datum.rate == '')")
        .encode(
            x=alt.X("attack:N", sort=attacks, title=None, axis=alt.Axis(orient="top", labelAngle=-30, labelLimit=130)),
            y=alt.Y("method:N", sort=methods, title=None, axis=alt.Axis(labelLimit=110)),
            tooltip=[alt.Tooltip(f"{field}:N", title=title) for field, title in HEAT_TOLD.items()],
        )
    )
    fill = alt.Color("good:Q", scale=alt.Scale(domain=[0, 1]), legend=None)
    marked = alt.condition("datum.method == marked", alt.value(2), alt.value(0))
    ink = alt.condition("datum.good > 0.55", alt.value(alt.expr("strong")), alt.value(alt.expr("ink")))
    tiles = (
        base.transform_filter("isValid(datum.good)").mark_rect(stroke=alt.expr("accent")).encode(color=fill, strokeWidth=marked)
    )
    grey = base.transform_filter("!isValid(datum.good)").mark_rect(
        fill="#808080", fillOpacity=0.12, stroke=alt.expr("quiet"), strokeDash=[3, 3], strokeWidth=0.7
    )
    upper = base.mark_text(dy=-6, fontSize=13).encode(text="label:N", color=ink)
    lower = base.mark_text(dy=9, fontSize=10).encode(text="below:N", color=ink)
    chart = (
        alt.layer(tiles, grey, upper, lower)
        .add_params(*parameters(switches), *inks())
        .properties(width="container", height=STEP * len(methods))
    )
    caption = (
        f"Each tile: the mean over seeds, and its n ({seeds_told(board)}). Stronger colour is better for the defender. Grey "
        "and dashed counts for nobody: weak attacks (less than 10 points above their clean twin, or unknown), what failed or "
        "is not there."
    )
    return Chart("Every attack against every method", caption, specified(chart), {name: rows}, switches)


HEAT_TOLD = {"method": "method", "against": "attack", "told": "mean ± 95 %", "n": "n", "marks": "marks"}


def _several_rates(board: Leaderboard) -> bool:
    found: dict[tuple[str, str], set[float]] = {}
    for cell in board.cells:
        if cell.rate is not None and cell.attack != CLEAN:
            found.setdefault((cell.world, cell.attack), set()).add(cell.rate)
    return any(len(rates) > 1 for rates in found.values())


def _curves(
    board: Leaderboard, measures: Sequence[Measure], names: dict[str, str], rows: tuple[list[dict[str, Any]], ...]
) -> Chart:
    import altair as alt

    attacks = [cell.attack for cell in board.cells if cell.rate is not None]
    switches = [_measures(measures), choice("world", "on", worlds(board)), choice("attack", "against", attacks)]
    wanted = "datum.measure == measure && datum.world == world && datum.attack == attack && isValid(datum.dose)"
    across = alt.X(
        "dose:Q",
        title=DOSES.get(board.verb, "poison rate (log scale)"),
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(format="~g", tickCount=6),
    )
    colour = alt.Color(
        "method:N", title=None, legend=alt.Legend(orient="bottom", columns=alt.expr("max(1, floor(width / 130))"))
    )
    shares = all(measure.share for measure in measures)
    up = alt.Y("mean:Q", title=None, axis=alt.Axis(format="~%" if shares else "~g"))
    strong = alt.condition("marked == '' || datum.method == marked", alt.value(1), alt.value(0.25))
    told = [alt.Tooltip(f"{name}:N") for name in ("method", "against", "told", "n")]
    mean = alt.Chart(alt.NamedData(names["cells"])).transform_filter(f"{wanted} && isValid(datum.mean)")
    each = alt.Chart(alt.NamedData(names["seeds"])).transform_filter(wanted)
    chart = alt.layer(
        mean.mark_line(point=True).encode(x=across, y=up, color=colour, opacity=strong, tooltip=told),
        mean.mark_rule(clip=True).encode(x=across, y="low:Q", y2="high:Q", color=colour, opacity=strong),
        each.mark_point(size=14, filled=True).encode(
            x=across, y="value:Q", color=colour, opacity=strong, tooltip=["method:N", "seed:N", "value:Q"]
        ),
    )
    chart = chart.add_params(*parameters(switches)).properties(width="container", height=300)
    caption = f"Means with 95 % intervals over seeds; every small point is a seed ({seeds_told(board)})."
    return Chart("Against the rate", caption, specified(chart), {names["cells"]: rows[0], names["seeds"]: rows[1]}, switches)
