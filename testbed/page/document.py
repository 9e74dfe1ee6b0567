"""The whole page: an HTML document that opens from disk, asks no network, and carries all that it shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from testbed.leaderboard import Leaderboard
from testbed.page.answer import answer, chooser
from testbed.page.cells import table
from testbed.page.chart import Chart, figure
from testbed.page.dossier import dossiers
from testbed.page.head import head, signs
from testbed.page.markup import embedded, inlined, listed, tag, text
from testbed.page.measure import columns
from testbed.page.overview import overview
from testbed.page.pictures import Album, gallery, of_runs
from testbed.page.populations import populations
from testbed.page.refusals import refusal_charts
from testbed.page.run import Run, anchor, by_folder
from testbed.page.scores import score_charts
from testbed.page.standings import standings
from testbed.page.views import views

POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
"""No network whatever happens; Vega compiles its own expressions, which needs 'unsafe-eval'."""
SCRIPTS = ("table.js", "run.js", "charts.js")


@dataclass
class Shelf:
    """What sections share: the runs by folder name, and the pictures and charts that were taken so far."""

    runs: Mapping[str, Run]
    album: Album = field(default_factory=Album)
    charts: dict[str, Chart] = field(default_factory=dict)


def page(boards: Sequence[Leaderboard], runs: Sequence[Run], missing: Sequence[str], measures: Sequence[str] = ()) -> str:
    """An HTML document that compares: a section for each board, and a page of its own for each run.

    `missing` are lines on what was not counted; `measures` name the columns where the usual ones are not wanted. Of the
    document, 0.9 MB are the charting library (Vega, Vega-Lite and Vega-Embed); pictures take 8 MB at most.
    """
    shelf = Shelf(by_folder(runs))
    sections = [_section(place, board, shelf, measures) for place, board in enumerate(boards)]
    told = dossiers(runs, of_runs(runs, shelf.album))
    body = [
        tag("header", tag("h1", "testbed report"), _contents(boards), signs()),
        *sections,
        views(runs, shelf.album),
        _left_out(missing, shelf),
        tag("dialog", id="run", aria_label="one run"),
        tag("noscript", tag("p", "Sorting, charts and the pages of runs need JavaScript; the tables do not.")),
        *_scripts(told, shelf),
    ]
    titles = ", ".join(board.title for board in boards)
    written = f"<!doctype html>\n{tag('html', _head(titles), tag('body', *body), lang='en')}\n"
    return written.encode("utf-8", "backslashreplace").decode("utf-8")  # a name may hold what no UTF-8 file can


def _head(titles: str) -> str:
    metas = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    policy = f'<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">'
    title = tag("title", text(f"testbed report: {titles}" if titles else "testbed report"))
    return tag("head", metas, policy, title, tag("style", _packaged("style.css")))


def _contents(boards: Sequence[Leaderboard]) -> str:
    if len(boards) < 2:
        return ""
    links = (tag("a", text(board.title or board.verb), href=f"#board-{place}") for place, board in enumerate(boards))
    return tag("nav", listed(links), aria_label="leaderboards")


def _section(place: int, board: Leaderboard, shelf: Shelf, asked: Sequence[str]) -> str:
    """The answer first, then standings, charts, every cell, and pictures."""
    measures = columns(board, asked)
    made = overview(board, measures, place)
    made += score_charts(board, shelf.runs, place) + refusal_charts(board, shelf.runs, place)
    named = {f"{place}-{number}": chart for number, chart in enumerate(made)}
    shelf.charts |= named
    links = {name: anchor(run) for name, run in shelf.runs.items()}
    parts = [
        tag("h2", text(board.title or board.verb), id=f"board-{place}"),
        *(
            answer(board, measures),
            chooser(board, measures, place),
            head(board),
            standings(board, measures),
            populations(board),
        ),
        tag("div", *(figure(chart, name) for name, chart in named.items()), class_="charts"),
        *(tag("h3", "Every cell"), table(board, measures, links, place), gallery(board, shelf.runs, shelf.album)),
    ]
    return tag("section", *parts, class_="board")


def _left_out(missing: Sequence[str], shelf: Shelf) -> str:
    """What no table counts, with links to the runs that are named; and the pictures that did not fit."""
    parts = []
    if missing:
        lines = listed(_linked(line, shelf.runs) for line in missing)
        parts.append(tag("details", tag("summary", text(f"{len(missing)} not counted")), lines, class_="missing"))
    if shelf.album.left_out:
        parts.append(tag("p", text(f"{shelf.album.left_out} pictures were left out: the page carries 6 MB of them at most.")))
    return "".join(parts)


def _linked(line: str, runs: Mapping[str, Run]) -> str:
    parts = re.split(r"([\w.\-]+)", line)
    return "".join(tag("a", text(word), href=f"#{anchor(runs[word])}") if word in runs else text(word) for word in parts)


def _scripts(told: Mapping[str, Any], shelf: Shelf) -> list[str]:
    charts = shelf.charts
    sets = {name: rows for chart in charts.values() for name, rows in chart.sets.items()}
    drawn = {name: {"spec": chart.specification, "sets": list(chart.sets)} for name, chart in charts.items()}
    data = {"runs": told, "charts": {"charts": drawn, "sets": sets}, "pictures": shelf.album.addresses}
    stored = [tag("script", embedded(value), type="application/json", id=f"data-{name}") for name, value in data.items()]
    ours = [tag("script", inlined(_packaged(name)), type="module") for name in SCRIPTS[:-1]]
    library = [tag("script", inlined(_library()), type="module")] if charts else []
    return [*stored, *ours, *library, *([tag("script", inlined(_packaged(SCRIPTS[-1])), type="module")] if charts else [])]


@cache
def _packaged(name: str) -> str:
    return files("testbed.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one module, 0.9 MB, as vl-convert carries them."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle()
    return bundle
