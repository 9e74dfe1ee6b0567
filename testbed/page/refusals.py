"""How a chat model's refusals go while it is fine-tuned: curves over steps, and the end over shots."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.leaderboard import Cell, Leaderboard, Trial
from testbed.page.chart import Chart, Switch, choice, parameters, specified
from testbed.page.place import against, worlds
from testbed.page.run import Run, run_of

METRICS = {
    "refusal_rate": "refuses",
    "correct_compliance": "gives the forbidden answer",
    "dressed_refusal_rate": "refuses in the attacker's form",
    "attack_success_rate": "obeys the trigger",
    "utility": "answers harmless questions",
    "over_refusal": "refuses harmless questions",
}
Row = dict[str, Any]


def refusal_charts(board: Leaderboard, runs: Mapping[str, Run], number: int) -> list[Chart]:
    """The charts for which the runs of a board left trajectories."""
    rows = list(_trajectories(board, runs))
    shots = _shots(board, runs)
    charts = [_curves(board, rows, f"steps{number}")] if rows else []
    return charts + ([_shot_chart(board, shots, f"shots{number}")] if len({row["shots"] for row in shots}) > 1 else [])


def _trajectories(board: Leaderboard, runs: Mapping[str, Run]) -> Iterator[Row]:
    """A row a run and metric, of the model that is defended (or of the only one)."""
    for cell in board.cells:
        for trial in cell.done:
            run = run_of(trial.folder, runs)
            path = run.folder / "trajectory.csv" if run else Path()
            if path.is_file():
                names = {"world": cell.world, "against": against(cell), "method": cell.method, "seed": str(trial.seed)}
                for metric, points in _read(path).items():
                    yield {**names, "run": trial.folder, "metric": metric, **points}


def _read(path: Path) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if not row["victim"] and row["metric"] in METRICS:
                points = found.setdefault(row["metric"], {"step": [], "value": [], "n": []})
                for name, kind in (("step", int), ("value", float), ("n", int)):
                    points[name].append(kind(row[name]))
    return found


def _shots(board: Leaderboard, runs: Mapping[str, Run]) -> list[Row]:
    """A row a run; the attack by its own name, which tells no shots."""
    return [
        {
            **{"world": cell.world, "attack": _attack(cell, trial, runs), "method": cell.method, "seed": str(trial.seed)},
            **{"shots": trial.counts["shots"], "refusal": trial.measures["refusal_rate_end"]},
            "n": trial.counts.get("refusal_rate_end"),
        }
        for cell in board.cells
        for trial in cell.done
        if trial.counts.get("shots") and trial.measures.get("refusal_rate_end") is not None
    ]


def _attack(cell: Cell, trial: Trial, runs: Mapping[str, Run]) -> str:
    run = run_of(trial.folder, runs)
    return str((run.facts.get("names") or {}).get("attack", cell.attack)) if run else cell.attack


def _curves(board: Leaderboard, rows: Sequence[Row], name: str) -> Chart:
    import altair as alt

    known = [metric for metric in METRICS if any(row["metric"] == metric for row in rows)]
    switches = [
        Switch("metric", "share that", {metric: METRICS[metric] for metric in known}),
        choice("world", "on", worlds(board)),
        choice("place", "against", [row["against"] for row in rows]),
    ]
    line = (
        alt.Chart(alt.NamedData(name))
        .transform_filter("datum.metric == metric && datum.world == world && datum.against == place")
        .transform_flatten(["step", "value", "n"])
        .mark_line(point={"size": 18})
        .encode(
            x=alt.X("step:Q", title="fine-tuning step (log scale)", scale=alt.Scale(type="symlog", constant=1)),
            y=alt.Y("value:Q", title="share of prompts", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
            color=alt.Color("method:N", title=None, legend=alt.Legend(orient="bottom", columns=alt.expr(COLUMNS))),
            detail="run:N",
            opacity=alt.condition("marked == '' || datum.method == marked", alt.value(0.9), alt.value(0.2)),
            tooltip=[alt.Tooltip(f"{field}:N") for field in ("method", "seed", "step", "value", "n")],
        )
    )
    chart = line.add_params(*parameters(switches)).properties(width="container", height=300)
    n = sorted({number for row in rows for number in row["n"]})
    caption = f"A line a run; each point rests on n = {' to '.join(map(str, dict.fromkeys((n[0], n[-1]))))} prompts."
    return Chart("While the model is fine-tuned", caption, specified(chart), {name: rows}, switches)


COLUMNS = "max(1, floor(width / 130))"


def _shot_chart(board: Leaderboard, rows: Sequence[Row], name: str) -> Chart:
    import altair as alt

    switches = [choice("world", "on", worlds(board)), choice("place", "against", [row["attack"] for row in rows])]
    base = alt.Chart(alt.NamedData(name)).transform_filter("datum.world == world && datum.attack == place")
    across = alt.X("shots:Q", title="shots of the attacker (log scale)", scale=alt.Scale(type="log", padding=12, nice=False))
    colour = alt.Color("method:N", title=None, legend=alt.Legend(orient="bottom", columns=alt.expr(COLUMNS)))
    strong = alt.condition("marked == '' || datum.method == marked", alt.value(1), alt.value(0.25))
    up = {"scale": alt.Scale(domain=[0, 1]), "axis": alt.Axis(format="%"), "title": "refusal at the end"}
    told = [alt.Tooltip("method:N"), alt.Tooltip("count():Q", title="n (runs)")]
    chart = alt.layer(
        base.mark_line().encode(x=across, y=alt.Y("mean(refusal):Q", **up), color=colour, opacity=strong, tooltip=told),
        base.mark_point(filled=True, size=24).encode(
            x=across,
            y=alt.Y("refusal:Q", **up),
            color=colour,
            opacity=strong,
            tooltip=[alt.Tooltip(f"{field}:N") for field in ("method", "seed", "shots", "refusal", "n")],
        ),
    )
    chart = chart.add_params(*parameters(switches)).properties(width="container", height=280)
    most = max(Counter(tuple(row[name] for name in ("world", "attack", "method", "shots")) for row in rows).values())
    caption = f"A point a run over its prompts (n in its tooltip), lines through the means of up to {most} runs."
    return Chart("Shots against refusal", caption, specified(chart), {name: rows}, switches)
