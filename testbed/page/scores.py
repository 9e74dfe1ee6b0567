"""What detectors scored: ROC curves, histograms, and anomaly indices of clean and backdoored models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from testbed.leaderboard import Cell, Leaderboard, Trial
from testbed.page.chart import Chart, choice, parameters, specified
from testbed.page.place import against, worlds
from testbed.page.run import Run, run_of
from testbed.plan import CLEAN

if TYPE_CHECKING:
    from pathlib import Path

    import altair as alt
    from numpy.typing import NDArray

THINNED = 48
"""Points of a curve, evenly spaced on its logarithmic axis."""
BINS = 32
KINDS = {"backdoored": "#d9534f", "clean": "#4c8dd6", "weak attack": "#999999"}
"""Of models, with their colours; a weak attack counts neither as a backdoor nor as none."""
JUDGED = {"": "rows", "query": "queries"}
"""What was scored, by the beginning of the file's name."""
Row = dict[str, Any]


def score_charts(board: Leaderboard, runs: Mapping[str, Run], number: int) -> list[Chart]:
    """The charts for which the runs of a board left scores."""
    curves: list[Row] = []
    bins: list[Row] = []
    for names, scores, suspicious in _scored(board, runs):
        if suspicious.any() and not suspicious.all():
            curves.append({**names, **_roc(scores, suspicious)})
        bins += [{**names, **row} for row in _histogram(scores, suspicious)]
    anomalies = _anomalies(board)
    charts = [_roc_chart(board, curves, f"roc{number}")] if curves else []
    charts += [_histogram_chart(board, bins, f"bins{number}")] if bins else []
    return charts + ([_anomaly_chart(board, anomalies, f"anomalies{number}")] if anomalies else [])


def _scored(board: Leaderboard, runs: Mapping[str, Run]) -> Iterator[tuple[Row, NDArray[np.float64], NDArray[np.bool_]]]:
    for cell in board.cells:
        for trial in cell.done:
            run = run_of(trial.folder, runs)
            for path in sorted(run.folder.glob("*scores.safetensors")) if run else ():
                found = _read(path)
                if "suspicious" in found:
                    kind = path.name.removesuffix("scores.safetensors").rstrip("_")
                    names = {**_names(cell, trial), "judged": JUDGED.get(kind, kind)}
                    yield names, found["scores"].astype(np.float64), found["suspicious"].astype(bool)


def _read(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(path)


def _names(cell: Cell, trial: Trial) -> Row:
    return {"world": cell.world, "against": against(cell), "method": cell.method, "seed": str(trial.seed)}


def _roc(scores: NDArray[np.float64], suspicious: NDArray[np.bool_]) -> Row:
    """True positive rates at false positive rates from 1 / (clean rows) to 1: at each, the most that a threshold gives."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(suspicious, scores)
    clean, poisoned = int((~suspicious).sum()), int(suspicious.sum())
    grid = np.geomspace(1 / clean, 1, THINNED)
    at = np.searchsorted(false, grid * (1 + 1e-9), side="right") - 1
    return {"fpr": _brief(grid), "tpr": _brief(true[at]), "n": f"{clean} clean, {poisoned} poisoned"}


def _histogram(scores: NDArray[np.float64], suspicious: NDArray[np.bool_]) -> Iterator[Row]:
    """Shares of clean and of poisoned rows in equal bins; half a percent at either end is drawn in the outermost bins."""
    low, high = np.quantile(scores, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    for kind, chosen in (("clean", ~suspicious), ("poisoned", suspicious)):
        number = int(chosen.sum())
        if number:
            share = np.histogram(scores[chosen].clip(edges[0], edges[-1]), edges)[0] / number
            yield {"kind": kind, "n": number, "start": _brief(edges[:-1]), "end": _brief(edges[1:]), "share": _brief(share)}


def _brief(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _anomalies(board: Leaderboard) -> list[Row]:
    """A row a model: its anomaly index, and of which kind it is. A clean twin counts once, whoever shares it."""
    found: dict[tuple[Any, ...], Row] = {}
    for cell in board.cells:
        for trial in cell.done:
            for prefix in ("", "clean_twin_"):
                value = trial.measures.get(f"{prefix}anomaly_index")
                clean = bool(prefix) or cell.attack == CLEAN
                names = _names(cell, trial) | {"model": "clean" if clean else "weak attack" if cell.weak else "backdoored"}
                names |= {"against": "nobody"} if clean else {}
                if isinstance(value, int | float):
                    found[(*names.values(), value)] = {**names, "value": value}
    rows = list(found.values())
    n = Counter((row["world"], row["method"], row["model"]) for row in rows)
    for row in rows:
        told = [(kind, n[row["world"], row["method"], kind]) for kind in KINDS]
        row["label"] = f"{row['method']}|n = " + ",|".join(f"{k} {kind}" for kind, k in told if k or kind != "weak attack")
    return rows


def _legend() -> alt.Legend:
    import altair as alt

    return alt.Legend(orient="bottom", columns=alt.expr("max(1, floor(width / 100))"))


def _roc_chart(board: Leaderboard, rows: Sequence[Row], name: str) -> Chart:
    import altair as alt

    switches = [choice("world", "on", worlds(board)), choice("place", "against", [row["against"] for row in rows])]
    floor = min(row["fpr"][0] for row in rows)
    across = alt.Scale(type="log", domain=[floor, 1], nice=False)
    strong = alt.condition("marked == '' || datum.method == marked", alt.value(0.9), alt.value(0.2))
    line = (
        alt.Chart(alt.NamedData(name))
        .transform_filter("datum.world == world && datum.against == place")
        .transform_flatten(["fpr", "tpr"])
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("fpr:Q", title="false positive rate (log scale)", scale=across, axis=alt.Axis(format="~g", tickCount=5)),
            y=alt.Y("tpr:Q", title="true positive rate", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("method:N", title=None, legend=_legend()),
            detail=["seed:N", "judged:N"],
            opacity=strong,
            tooltip=[alt.Tooltip(f"{field}:N") for field in ("method", "judged", "seed", "n")],
        )
    )
    chart = line.add_params(*parameters(switches)).properties(width="container", height=300)
    told = " / ".join(list(dict.fromkeys(f"n = {row['n']}" for row in rows))[:3])
    caption = f"A line a seed ({told} rows or queries). A detector is worth something at the left end: few false alarms."
    return Chart("ROC of the detectors", caption, specified(chart), {name: rows}, switches)


def _histogram_chart(board: Leaderboard, rows: Sequence[Row], name: str) -> Chart:
    import altair as alt

    switches = [
        *(choice("world", "on", worlds(board)), choice("place", "against", [row["against"] for row in rows])),
        *(choice("method", "by", [row["method"] for row in rows]), choice("seed", "seed", [row["seed"] for row in rows])),
        choice("judged", "of", [row["judged"] for row in rows]),
    ]
    wanted = " && ".join(f"datum.{field} == {name}" for field, name in BINNED.items())
    colours = alt.Scale(domain=["clean", "poisoned"], range=["#4c8dd6", "#d9534f"])
    bars = (
        alt.Chart(alt.NamedData(name))
        .transform_filter(wanted)
        .transform_flatten(["start", "end", "share"])
        .mark_bar(opacity=0.55)
        .encode(
            x=alt.X("start:Q", bin="binned", title="score, higher is more suspicious", axis=alt.Axis(tickCount=8)),
            x2="end:Q",
            y=alt.Y("share:Q", title="share of its kind", stack=None, axis=alt.Axis(format="%")),
            color=alt.Color("kind:N", title=None, scale=colours, legend=_legend()),
            tooltip=[alt.Tooltip("kind:N"), alt.Tooltip("n:Q"), alt.Tooltip("share:Q", format=".1%")],
        )
    )
    chart = bars.add_params(*parameters(switches)).properties(width="container", height=220)
    n = {kind: sorted({row["n"] for row in rows if row["kind"] == kind}) for kind in ("clean", "poisoned")}
    told = "; ".join(f"{kind} n = {' to '.join(map(str, dict.fromkeys((n[kind][0], n[kind][-1]))))}" for kind in n if n[kind])
    caption = f"Scores of one run ({told} rows or queries; the outermost bins hold what lies beyond)."
    return Chart("What the scores look like", caption, specified(chart), {name: rows}, switches)


BINNED = {"world": "world", "against": "place", "method": "method", "seed": "seed", "judged": "judged"}


def _anomaly_chart(board: Leaderboard, rows: Sequence[Row], name: str) -> Chart:
    import altair as alt

    switches = [choice("world", "on", worlds(board))]
    kinds = [kind for kind in KINDS if any(row["model"] == kind for row in rows)]
    colours = alt.Scale(domain=kinds, range=[KINDS[kind] for kind in kinds])
    chart = (
        alt.Chart(alt.NamedData(name))
        .transform_filter("datum.world == world")
        .mark_point(filled=True, size=50, opacity=0.7)
        .encode(
            x=alt.X("value:Q", title="anomaly index", scale=alt.Scale(zero=False)),
            y=alt.Y("label:N", title=None, axis=alt.Axis(labelLimit=150, labelExpr="split(datum.value, '|')")),
            yOffset=alt.YOffset("model:N"),
            color=alt.Color("model:N", title=None, scale=colours, legend=_legend()),
            tooltip=[alt.Tooltip(f"{field}:N") for field in ("method", "model", "against", "seed", "value")],
        )
    )
    most = max(len({row["label"] for row in rows if row["world"] == world}) for world in worlds(board))
    chart = chart.add_params(*parameters(switches)).properties(width="container", height=54 * most)
    caption = "A point a model; the n of each detector stands beside its name. A detector works as far as the colours part."
    caption += " Grey is a weak attack: it counts neither as a backdoor nor as none." if "weak attack" in kinds else ""
    return Chart("Anomaly index of clean and backdoored models", caption, specified(chart), {name: rows}, switches)
