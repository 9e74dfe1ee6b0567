"""The head of a board: the answer first, then where one method stands, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.leaderboard import Leaderboard, Standing
from testbed.page.markup import tag, text
from testbed.page.measure import Measure
from testbed.page.place import added
from testbed.page.standings import cells_of, ordered, primary, verdict
from testbed.rules import RANKED
from testbed.table import heading


def answer(board: Leaderboard, measures: Sequence[Measure]) -> str:
    """One sentence for each world: who leads, by how much, and on what that rests."""
    told = []
    for world in dict.fromkeys(row.world for row in board.standings):
        ranked = [row for row in ordered(board) if row.world == world and row.mean_rank is not None]
        where = f"On {world}: " if world else ""
        if not ranked:
            told.append(f"{where}nobody has a rank yet: no method has every cell that counts.")
            continue
        first = [row for row in ranked if row.mean_rank == ranked[0].mean_rank]
        names = " and ".join(row.method for row in first)
        numbers = f"; {_numbers(first[0], measures)}" if len(first) == 1 and _numbers(first[0], measures) else ""
        by = f" by {heading(RANKED[board.verb])}" if board.verb in RANKED else ""
        if len(ranked) == 1:
            told.append(f"{where}{names} is the only method that has every cell that counts: {_rank(first[0])}{numbers}.")
            continue
        are = "is" if len(first) == 1 else "are"
        told.append(f"{where}{names} {are} first of {len(ranked)} methods{by}: {_rank(first[0])}{numbers}.")
        told += [_sure(board, first[0], measures)] if len(first) == 1 else []
    return tag("p", " ".join(text(line) for line in told if line), class_="answer") if told else ""


def sentences(board: Leaderboard, measures: Sequence[Measure]) -> dict[str, str]:
    """By method: where it stands, and how sure that is."""
    found: dict[str, list[str]] = {}
    for row in ordered(board):
        found.setdefault(row.method, []).append(_sentence(board, row, measures))
    return {method: " ".join(lines) for method, lines in found.items()}


def chooser(board: Leaderboard, measures: Sequence[Measure], place: int) -> str:
    """A list of the methods: the one that is chosen is told about, and marked in every view below."""
    told = sentences(board, measures)
    names = list(dict.fromkeys([*told, *(cell.method for cell in board.cells)]))
    mine = added(board)[:1]
    options = [tag("option", "choose a method", value="")]
    options += [
        tag("option", text(name), value=name, selected=name in mine, data_told=told.get(name, "It has no standing."))
        for name in names
    ]
    label = tag("label", "Where does ", tag("select", *options, class_="mark", id=f"mark-{place}"), " stand?")
    return tag("div", label, tag("output", for_=f"mark-{place}"), class_="chooser")


def _sentence(board: Leaderboard, row: Standing, measures: Sequence[Measure]) -> str:
    where = f"{row.world}: " if row.world else ""
    ranked = [other for other in board.standings if other.world == row.world and other.mean_rank is not None]
    position = sum(other.mean_rank < row.mean_rank for other in ranked if row.mean_rank is not None) + 1  # type: ignore[operator]
    place = f"Place {position} of {len(ranked)} ({_rank(row)})" if row.mean_rank is not None else "No rank"
    basis = f"{row.cells} of {row.wanted} cells" + (f", {row.failed} failed" if row.failed else "")
    told = [(measure, verdict(cells_of(board, row), measure)) for measure in primary(board, measures)]
    parts = [f"{where}{place}", basis, _numbers(row, measures)]
    parts += [f"{measure.title} against {board.baseline}: {words}" for measure, words in told if words]
    parts += [f"adaptively tested: {', '.join(row.adaptive)}" if row.adaptive else "never tested against an adaptive attack"]
    return "; ".join(part for part in parts if part) + "."


def _sure(board: Leaderboard, row: Standing, measures: Sequence[Measure]) -> str:
    """How its difference from the baseline was tested."""
    words = [(measure, verdict(cells_of(board, row), measure)) for measure in primary(board, measures)]
    return " ".join(f"Its {measure.title} against {board.baseline}: {told}." for measure, told in words if told)


def _rank(row: Standing) -> str:
    worst = "" if row.worst_rank is None else f", worst {row.worst_rank:g}"
    return f"mean rank {row.mean_rank:.2f}{worst}, n = {row.n} runs"


def _numbers(row: Standing, measures: Sequence[Measure]) -> str:
    told = []
    for measure in measures[:2]:
        if measure.name in row.means:
            worst = row.worst.get(measure.name)
            beside = "" if worst is None else f" (worst {measure.shown(worst)})"
            told.append(f"{measure.title} {measure.shown(row.means[measure.name])}{' %' if measure.share else ''}{beside}")
    return ", ".join(told)
