"""Safety against utility: every method with its interval, every seed as a point, and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from testbed.leaderboard import Leaderboard
from testbed.page.chart import Chart, choice, inks, parameters, seeds_told, specified
from testbed.page.measure import KNOWN, Measure
from testbed.page.place import worlds
from testbed.page.points import trade_off

if TYPE_CHECKING:
    import altair as alt

AXES = {
    "train": ("clean_accuracy", "attack_success_rate", "utility: clean accuracy", "safety: 1 − attack success"),
    "degrade": ("utility_end", "refusal_rate_end", "utility at the end", "safety: refusal at the end"),
}
"""By verb: utility, safety, and what to call them."""


def scatter(board: Leaderboard, measures: Sequence[Measure], number: int) -> Chart | None:
    """None where a board has no measure of safety or none of utility."""
    import altair as alt

    x, y, utility, safety = AXES.get(board.verb, ("", "", "", ""))
    if not x or not {x, y} <= {measure.name for measure in measures}:
        return None
    means, seeds = trade_off(board, KNOWN[x], KNOWN[y])
    if not means:
        return None
    switches = [choice("world", "on", worlds(board)), choice("place", "against", [row["place"] for row in means])]
    sets = {f"means{number}": means, f"pairs{number}": seeds}
    mean, each = (_chosen(name) for name in sets)
    span = _span([row["utility"] for row in (*means, *seeds)])
    axes = _axes(utility, safety, span)
    names = _names(mean, axes, sum(span) / 2)
    layers = (_front(mean, axes), *_bars(mean, utility, safety), _dots(each, axes), _points(mean, axes), *names)
    chart = alt.layer(*layers).add_params(*parameters(switches), *inks()).properties(width="container", height=340)
    caption = (
        "Upper right is better. Large points are means with 95 % intervals over seeds, small points are the seeds "
        f"({seeds_told(board)}); diamonds on the dashed line are the Pareto front: nobody is better in both. Names stand where "
        "there is room; choose a method above to have it marked."
    )
    return Chart("Safety against utility", caption, specified(chart), sets, switches)


def _chosen(name: str) -> alt.Chart:
    import altair as alt

    return alt.Chart(alt.NamedData(name)).transform_filter("datum.world == world && datum.place == place")


def _span(values: Sequence[float]) -> list[float]:
    """The values with some room, and hardly beyond 0..1."""
    low, high = min(values), max(values)
    room = max((high - low) * 0.12, 0.01)
    return [max(low - room, -0.004), min(high + room * 2, 1.004)]


def _axes(utility: str, safety: str, span: Sequence[float]) -> dict[str, Any]:
    import altair as alt

    across = alt.Axis(format="~%", tickCount=6)
    up = alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    return {
        "x": alt.X("utility:Q", title=utility, scale=alt.Scale(domain=list(span), nice=False), axis=across),
        "y": alt.Y("safety:Q", title=safety, scale=alt.Scale(domain=[-0.03, 1.03], nice=False), axis=up),
    }


def _colour() -> Any:
    import altair as alt

    return alt.condition("datum.method == marked", alt.value(alt.expr("accent")), alt.value(alt.expr("ink")))


def _front(mean: alt.Chart, axes: dict[str, Any]) -> alt.Chart:
    import altair as alt

    line = mean.transform_filter("datum.front").mark_line(interpolate="step-before", strokeDash=[4, 3], clip=True)
    return line.encode(**axes, order="utility:Q", color=alt.value(alt.expr("quiet")))


def _bars(mean: alt.Chart, utility: str, safety: str) -> Iterator[alt.Chart]:
    """Intervals either way."""
    import altair as alt

    bars = mean.mark_rule(clip=True, opacity=0.4).encode(color=_colour())
    yield bars.encode(x=alt.X("utility_low:Q", title=utility), x2="utility_high:Q", y="safety:Q")
    yield bars.encode(x="utility:Q", y=alt.Y("safety_low:Q", title=safety), y2="safety_high:Q")


def _dots(each: alt.Chart, axes: dict[str, Any]) -> alt.Chart:
    import altair as alt

    faint = alt.condition("datum.method == marked", alt.value(0.9), alt.value(0.35))
    told = [alt.Tooltip("method:N"), alt.Tooltip("seed:N"), *_shares()]
    return each.mark_point(size=16, filled=True, clip=True).encode(**axes, color=_colour(), opacity=faint, tooltip=told)


def _points(mean: alt.Chart, axes: dict[str, Any]) -> alt.Chart:
    import altair as alt

    shape = alt.condition("datum.front", alt.value("diamond"), alt.value("circle"))
    told = [alt.Tooltip("method:N"), alt.Tooltip("n:Q", title="n (seeds)"), *_shares()]
    points = mean.mark_point(size=90, filled=True, clip=True, opacity=1)
    return points.encode(**axes, color=_colour(), shape=shape, tooltip=told)


def _shares() -> Iterator[alt.Tooltip]:
    import altair as alt

    for name in ("utility", "safety"):
        yield alt.Tooltip(f"{name}:Q", format=".1%")


def _names(mean: alt.Chart, axes: dict[str, Any], middle: float) -> Iterator[alt.Chart]:
    """Beside the points, towards the middle."""
    words = mean.transform_filter("datum.named || datum.method == marked")
    for side, align, right in (("<=", "left", 8), (">", "right", -8)):
        half = words.transform_filter(f"datum.utility {side} {middle}")
        yield half.mark_text(align=align, dx=right, dy=-7, fontSize=11).encode(**axes, text="label:N", color=_colour())
