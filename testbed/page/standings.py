"""Who stands where: one row a method, the worst case beside each mean."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from testbed.leaderboard import Cell, Contrast, Leaderboard, Standing
from testbed.page.markup import name, tag, text
from testbed.page.measure import Measure
from testbed.page.place import worlds
from testbed.page.points import mean_over_cells
from testbed.rules import SIGNIFICANT
from testbed.statistics import FEWEST_PAIRS

SCROLLED = 15
"""So many methods stand in full; more scroll, so that the charts stay near."""


def significant(contrast: Contrast) -> bool:
    """Whether a difference may carry a mark; never below 6 pairs, where nothing is tested."""
    return contrast.corrected is not None and contrast.corrected < SIGNIFICANT


def ordered(board: Leaderboard) -> list[Standing]:
    """Best mean rank first, those without a rank last; world after world."""
    places = [None, *worlds(board)]

    def order(standing: Standing) -> tuple[int, bool, float]:
        unranked = standing.mean_rank is None
        return places.index(standing.world) if standing.world in places else 0, unranked, standing.mean_rank or 0.0

    return sorted(board.standings, key=order)


def cells_of(board: Leaderboard, standing: Standing) -> list[Cell]:
    """The cells that a standing is about."""
    return [cell for cell in board.cells if cell.method == standing.method and standing.world in (None, cell.world)]


def verdict(cells: Sequence[Cell], measure: Measure) -> str:
    """In how many cells a method is surely better or worse than the baseline, in words; '' for the baseline itself."""
    pairs = [
        cell.contrasts[measure.name] for cell in cells if measure.name in cell.contrasts and cell.counted and not cell.weak
    ]
    if not pairs:
        return ""
    most = max(pair.difference.n for pair in pairs)
    needed = max([FEWEST_PAIRS, *(pair.fewest for pair in pairs if pair.fewest is not None)])
    if all(pair.p is None for pair in pairs):
        return f"untested (n = {most} of {needed} pairs)"
    if all(pair.corrected is None and pair.fewest is None for pair in pairs):
        return f"in no family of tests (n = {len(pairs)} cells)"
    if not any(pair.decidable for pair in pairs):
        return f"cannot be decided {below(pairs[0].fewest)} (n = {most} pairs)"
    return _counts(pairs, measure)


def _counts(pairs: Sequence[Contrast], measure: Measure) -> str:
    sure = [pair.difference.mean * measure.better for pair in pairs if significant(pair)]
    better, worse = sum(value > 0 for value in sure), sum(value < 0 for value in sure)
    few = [pair for pair in pairs if not pair.decidable]
    lacking = f", {len(few)} cannot be decided {below(few[0].fewest)}" if few else ""
    undecided = len(pairs) - better - worse - len(few)
    return f"{better} better, {worse} worse, {undecided} undecided{lacking} (n = {len(pairs)} cells)"


def below(fewest: int | None) -> str:
    """'below 9 seeds': where no test of a family can have a mark, whatever the differences are."""
    return "with any number of seeds, as its family has too many tests" if fewest is None else f"below {fewest} seeds"


def primary(board: Leaderboard, measures: Sequence[Measure]) -> list[Measure]:
    """The first measure of which differences from the baseline are known, if any is."""
    return [measure for measure in measures if any(measure.name in cell.contrasts for cell in board.cells)][:1]


def seconds(cells: Sequence[Cell]) -> tuple[float | None, float | None, int]:
    """Mean seconds, greatest peak memory in megabytes, and over how many runs."""
    trials = [trial for cell in cells for trial in cell.done]
    times = [trial.seconds for trial in trials if trial.seconds is not None]
    memory = [trial.peak_memory for trial in trials if trial.peak_memory is not None]
    return fmean(times) if times else None, max(memory) / 2**20 if memory else None, max(len(times), len(memory))


def standings(board: Leaderboard, measures: Sequence[Measure]) -> str:
    """The table; '' where a board has no standings."""
    rows = ordered(board)
    shown = [measure for measure in measures if any(measure.name in row.means for row in rows)]
    if not rows:
        return ""
    named = any(row.world is not None for row in rows)
    head = ["method", *(["world"] if named else []), "mean rank (worst)", "cells", "n (runs)"]
    head += [f"{measure.title}{measure.unit} {measure.arrow}" for measure in shown]
    told = primary(board, measures)
    head += [*(f"{measure.title} against {board.baseline}" for measure in told), "cost a run", "adaptively tested"]
    body = [_row(board, row, shown, told, named=named) for row in rows]
    table = tag("table", _head(head), tag("tbody", *body), class_="standings")
    return tag(
        "div",
        table,
        class_="wide short" if len(rows) > SCROLLED else "wide",
        role="region",
        tabindex="0",
        aria_label="standings",
    )


def _head(names: Sequence[str]) -> str:
    return tag("thead", tag("tr", *(tag("th", text(name), scope="col") for name in names)))


def _row(board: Leaderboard, row: Standing, shown: Sequence[Measure], first: Sequence[Measure], *, named: bool) -> str:
    cells = cells_of(board, row)
    failed = tag("small", text(f"{row.failed} failed")) if row.failed else ""
    parts = [tag("th", name(row.method), scope="row"), *([tag("td", text(row.world or "all"))] if named else [])]
    parts += [tag("td", _rank(row))]
    parts += [tag("td", text(f"{row.cells} of {row.wanted}"), failed), tag("td", text(row.n))]
    parts += [tag("td", *_mean(row, measure, _wanted(board, cells, measure))) for measure in shown]
    parts += [tag("td", text(verdict(cells, measure) or "–"), class_="words") for measure in first]
    parts += [tag("td", _cost(cells))]
    tested = _tested(row.adaptive)
    return tag("tr", *parts, tag("td", tested, class_="words"), data_method=row.method)


def _rank(row: Standing) -> str:
    if row.mean_rank is None:
        lacks = "it lacks cells that others have, so that its rank would not compare"
        return tag("span", "no rank", title=lacks if row.wanted else "there is no cell here by which methods are ranked")
    worst = "" if row.worst_rank is None else f" ({row.worst_rank:g})"
    return tag("b", text(f"{row.mean_rank:.2f}")) + text(worst)


def _mean(row: Standing, measure: Measure, cells: Sequence[Cell]) -> list[str]:
    """The mean with its interval, the worst case beneath; no interval where not every cell has the same seeds.

    Of a method that lacks some cells it is said on how many its numbers rest: they compare with no others.
    """
    if measure.name not in row.means:
        return ["–"]
    mean, worst = row.means[measure.name], row.worst.get(measure.name)
    beneath = [] if worst is None else [f"worst {measure.shown(worst)}"]
    if measure.name in row.partial:
        beneath.append(f"only {row.partial[measure.name]}")
        return [text(measure.shown(mean)), tag("small", text(", ".join(beneath)), class_="partial")]
    whole = mean_over_cells(cells, measure)
    sure = whole is not None and abs(whole.mean - mean) < 1e-9
    told = [tag("b", text(measure.shown(mean))), text(f" {measure.interval(whole)}" if sure and whole else "")]
    beneath += [f"n = {whole.n}"] if sure and whole else []
    return [*told, tag("small", text(", ".join(beneath)))]


def _wanted(board: Leaderboard, cells: Sequence[Cell], measure: Measure) -> list[Cell]:
    """Of these cells, those of the rows behind a mean: that count, and of which anybody has the measure."""
    told = {cell.row for cell in board.cells if measure.name in cell.spreads}
    return [cell for cell in cells if cell.counted and not cell.weak and cell.row in told]


def _cost(cells: Sequence[Cell]) -> str:
    time, memory, n = seconds(cells)
    told = [*([] if time is None else [f"{time:.1f} s"]), *([] if memory is None else [f"{memory:,.0f} MB"])]
    return text(", ".join(told)) + tag("small", text(f"n = {n}")) if told else "–"


def _tested(lines: Sequence[str]) -> str:
    """By how many adaptive attacks, and by which on demand: a line for each would make a row taller than a screen."""
    if not lines:
        return "no"
    told = (tag("span", text(line), class_="line") for line in lines)
    return tag("details", tag("summary", f"by {len(lines)}"), tag("small", *told))
