"""The table of cells: every number with its interval, its n and its seeds; and the same numbers as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from testbed.leaderboard import Cell, Contrast, Leaderboard, Spread
from testbed.page.censored import censored
from testbed.page.markup import data_uri, tag, text
from testbed.page.markup import name as name_of
from testbed.page.measure import Measure
from testbed.page.place import marks, rate
from testbed.page.standings import below, seconds, significant
from testbed.statistics import FEWEST_PAIRS

AXES = ("method", "attack", "rate", "world")


def axes(board: Leaderboard) -> dict[str, list[str]]:
    """The values of each axis that has several; methods and attacks always."""
    found = {name: list(dict.fromkeys(_axis(cell, name) for cell in board.cells)) for name in AXES}
    return {name: values for name, values in found.items() if len(values) > 1 or name in ("attack", "method")}


def table(board: Leaderboard, measures: Sequence[Measure], links: Mapping[str, str], place: int) -> str:
    """`links` are the anchors of runs by the names of their folders."""
    told = list(axes(board))
    compared = [measure for measure in measures if any(measure.name in cell.contrasts for cell in board.cells)]
    heads = [*(_sorter(name) for name in told), _sorter("n")]
    for measure in measures:
        heads.append(_sorter(f"{measure.title}{measure.unit} {measure.arrow}".strip()))
        heads += [_sorter(f"Δ {measure.title}")] if measure in compared else []
    heads += [*(_sorter(name) for name in ("rank", "seconds", "MB")), tag("th", "runs", scope="col")]
    body = [_row(board, cell, told, (measures, compared), links) for cell in board.cells]
    inside = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body), class_="cells", id=f"cells-{place}")
    region = tag("div", inside, class_="wide tall", role="region", tabindex="0", aria_label="cells")
    return _filters(board, told, place) + region + tag("p", *_download(board, measures), class_="about")


def _filters(board: Leaderboard, told: Sequence[str], place: int) -> str:
    search = tag("label", "any text ", '<input type="search" class="search" autocomplete="off">')
    chosen = []
    for name in told:
        options = [tag("option", text(value or "its own"), value=value) for value in axes(board)[name]]
        everything = '<option value="*">all</option>'
        chosen.append(tag("label", text(name), " ", tag("select", everything, *options, data_axis=name, aria_label=name)))
    weak = tag("label", '<input type="checkbox" class="hide-weak"> hide weak attacks')
    count = tag("output", text(f"{len(board.cells)} of {len(board.cells)} cells"), aria_live="polite")
    return tag("form", search, *chosen, weak, count, class_="filters", data_table=f"cells-{place}")


def _sorter(title: str) -> str:
    return tag("th", tag("button", text(title), type="button"), scope="col", aria_sort="none")


def _axis(cell: Cell, name: str) -> str:
    return rate(cell) if name == "rate" else str(getattr(cell, name))


def _row(
    board: Leaderboard, cell: Cell, told: Sequence[str], shown: tuple[Sequence[Measure], ...], links: Mapping[str, str]
) -> str:
    measures, compared = shown
    badges = "".join(_badge(word, why) for word, why in marks(cell, planned=bool(board.hash)).items())
    parts = []
    for name in told:
        value = _axis(cell, name)
        kind = "th" if name == "method" else "td"
        keys = {"data_v": value} if name == "rate" else {"data_t": value} if kind == "th" else {}
        inside = (name_of(value), badges) if kind == "th" else (text(value),)
        parts.append(tag(kind, *inside, scope="row" if kind == "th" else None, **keys))
    finished, asked = len(cell.done), len(cell.trials)
    parts.append(tag("td", text(finished if finished == asked else f"{finished} of {asked}"), data_v=finished))
    for measure in measures:
        parts.append(_figure(cell, measure))
        parts += [_difference(cell.contrasts.get(measure.name), measure)] if measure in compared else []
    time, memory, n = seconds([cell])
    parts.append(_plain(None if cell.rank is None else f"{cell.rank:g}", cell.rank))
    parts += [
        _plain(None if time is None else f"{time:.1f}", time, n),
        _plain(None if memory is None else f"{memory:,.0f}", memory, n),
    ]
    keys = {f"data_{name}": _axis(cell, name) for name in told}
    return tag("tr", *parts, tag("td", *_runs(cell, links), class_="runs"), data_weak=cell.weak or None, **keys)


def _badge(word: str, why: str) -> str:
    return tag("span", text(word), class_=f"badge {word.rpartition(' ')[2]}", title=why)


def _plain(shown: str | None, value: float | None, n: int | None = None) -> str:
    count = tag("small", text(f"n = {n}")) if n and shown else ""
    return tag("td", text(shown or "–"), count, data_v="" if value is None else f"{value:.6g}")


def _figure(cell: Cell, measure: Measure) -> str:
    bound = censored(cell, measure)
    if bound is not None:
        key = "" if bound.value is None else f"{bound.value:.6g}"
        return tag("td", tag("b", text(bound.text)), tag("small", text(bound.n)), data_v=key)
    spread = cell.spreads.get(measure.name)
    if spread is None:
        return '<td data-v="">–</td>'
    told = f"{tag('b', text(measure.shown(spread.interval.mean)))} {text(measure.interval(spread.interval))}"
    count = tag("small", text(measure.basis(spread)))
    return tag("td", told, count, _seeds(spread, measure), data_v=f"{spread.interval.mean:.6g}", title=_title(spread, measure))


def _seeds(spread: Spread, measure: Measure) -> str:
    """A dot a seed between 0 and 100 %, or the numbers where there is no such scale."""
    if len(spread.seeds) < 2:
        return ""
    if not measure.share:
        return tag("small", text(" ".join(measure.shown(value) for value in spread.seeds.values())))
    dots = (f'<i style="left:{100 * min(max(value, 0), 1):.1f}%"></i>' for value in spread.seeds.values())
    return tag("span", *dots, class_="seeds", aria_hidden="true")


def _title(spread: Spread, measure: Measure) -> str:
    lines = [f"seed {seed}: {measure.shown(value)}" for seed, value in spread.seeds.items()]
    sure = spread.guaranteed
    if sure is not None and sure.low is not None and sure.high is not None:
        lines.append(f"whatever the spread: {measure.shown(sure.low)} to {measure.shown(sure.high)}")
    return "\n".join(lines)


def _difference(contrast: Contrast | None, measure: Measure) -> str:
    if contrast is None:
        return '<td data-v="">–</td>'
    mean = contrast.difference.mean
    sign = "+" if mean > 0 else ""
    mark = "*" if significant(contrast) else ""
    told = f"{sign}{measure.shown(mean)} {measure.interval(contrast.difference)} {mark}".strip()
    p = _tested(contrast)
    better = mean * measure.better
    kind = ("better" if better > 0 else "worse" if better < 0 else None) if mark else None
    count = tag("small", text(f"n = {contrast.difference.n}"))
    return tag("td", text(told), count, data_v=f"{mean:.6g}", title=p, class_=kind)


def _tested(contrast: Contrast) -> str:
    fewest = contrast.fewest or 0
    if contrast.corrected is not None:
        more = "" if contrast.decidable else f": cannot be decided {below(contrast.fewest)}"
        return f"p = {contrast.corrected:.3g} after Holm{more}"
    if contrast.p is None:
        return f"not tested below {FEWEST_PAIRS} pairs" + (f", not decided below {fewest}" if fewest > FEWEST_PAIRS else "")
    return f"p = {contrast.p:.3g}, not corrected: in no family of tests that counts"


def _runs(cell: Cell, links: Mapping[str, str]) -> list[str]:
    told = []
    for trial in cell.trials:
        anchor = links.get(trial.folder.rstrip("/").rpartition("/")[2]) if trial.folder else None
        name = trial.turn_in_words
        brief = f"{trial.seed}.{trial.trial}" if trial.targeted else trial.seed
        told.append(tag("a", text(brief), href=f"#{anchor}", aria_label=name, title=name) if anchor else text(brief))
    return [" ".join(told)]


def _download(board: Leaderboard, measures: Sequence[Measure]) -> list[str]:
    name = f"{board.title or board.verb}.csv".replace(" ", "_").replace("/", "_")
    address = data_uri(as_csv(board, measures).encode(), "text/csv;charset=utf-8")
    return [tag("a", "These numbers as CSV", href=address, download=name, class_="csv"), " (shares as fractions, unrounded)"]


def as_csv(board: Leaderboard, measures: Sequence[Measure]) -> str:
    """A row a cell: each measure with n and both intervals, its difference from the baseline with p after Holm, and costs."""
    names = [*AXES, "n", "asked", "weak", "rank", "seconds", "megabytes"]
    names += [f"{measure.name}{end}" for measure in measures for end in ("", *_ENDS)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    for cell in board.cells:
        time, memory, _ = seconds([cell])
        row: dict[str, object] = {name: _axis(cell, name) for name in AXES}
        row |= {"n": len(cell.done), "asked": len(cell.trials), "weak": int(cell.weak), "rank": cell.rank}
        row |= {"seconds": time, "megabytes": memory}
        for measure in measures:
            row |= _csv_figures(cell, measure)
        writer.writerow(row)
    return stream.getvalue()


_ENDS = (
    *("_low", "_high", "_n", "_guaranteed_low", "_guaranteed_high"),
    *("_difference", "_difference_low", "_difference_high", "_difference_n", "_p_corrected"),
)


def _csv_figures(cell: Cell, measure: Measure) -> dict[str, object]:
    found: dict[str, object] = {}
    spread, contrast, name = cell.spreads.get(measure.name), cell.contrasts.get(measure.name), measure.name
    if spread is not None and censored(cell, measure) is None:
        found |= dict(zip((name, f"{name}_low", f"{name}_high", f"{name}_n"), spread.interval, strict=True))
        if spread.guaranteed is not None:
            found |= {f"{name}_guaranteed_low": spread.guaranteed.low, f"{name}_guaranteed_high": spread.guaranteed.high}
    if contrast is not None:
        ends = ("_difference", "_difference_low", "_difference_high", "_difference_n")
        found |= {f"{name}{end}": value for end, value in zip(ends, contrast.difference, strict=True)}
        found[f"{name}_p_corrected"] = contrast.corrected
    return found
