"""The head of a board: the answer first, then where one method stands, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.leaderboard import Leaderboard, Standing
from testbed.page.markup import tag, text
from testbed.page.measure import Measure
from testbed.page.place import added, place
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
            told.append(f"{where}{_nobody(board, world)}.")
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


def _nobody(board: Leaderboard, world: str | None) -> str:
    """Why no method has a rank in a world."""
    here = [row for row in board.standings if row.world == world]
    most = max(here, key=lambda row: row.cells)
    if most.wanted:
        return f"nobody has a rank yet: no method has every cell that counts ({most.method} has {most.cells} of {most.wanted})"
    if {row.method for row in here} <= {one.method for one in board.populations if world in (None, one.world)}:
        return "detectors of whole models are not ranked: how well they part backdoored from clean models stands below"
    reasons: dict[str, list[str]] = {}
    for row, why in board.left_out.items():
        if world in (None, row[0]):
            reasons.setdefault(why, []).append(" ".join(place(row)[1:]))
    told = [f"{', '.join(dict.fromkeys(names))}: {why}" for why, names in reasons.items()]
    return f"nobody can be ranked: {'; '.join(told) or 'no attack here is one that counts'}"


def sentences(board: Leaderboard, measures: Sequence[Measure]) -> dict[str, str]:
    """By method: where it stands, and how sure that is."""
    found: dict[str, list[str]] = {}
    for row in ordered(board):
        found.setdefault(row.method, []).append(_sentence(board, row, measures))
    return {method: " ".join(lines) for method, lines in found.items()}


def chooser(board: Leaderboard, measures: Sequence[Measure], number: int) -> str:
    """A list of the methods: the one that is chosen is told about, and marked in every view below."""
    told = sentences(board, measures)
    names = list(dict.fromkeys([*told, *(cell.method for cell in board.cells)]))
    mine = added(board)[:1]
    options = [tag("option", "choose a method", value="")]
    options += [
        tag("option", text(name), value=name, selected=name in mine, data_told=told.get(name, "It has no standing."))
        for name in names
    ]
    label = tag("label", "Where does ", tag("select", *options, class_="mark", id=f"mark-{number}"), " stand?")
    return tag("div", label, tag("output", for_=f"mark-{number}"), class_="chooser")


def _sentence(board: Leaderboard, row: Standing, measures: Sequence[Measure]) -> str:
    where = f"{row.world}: " if row.world else ""
    ranked = [other for other in board.standings if other.world == row.world and other.mean_rank is not None]
    position = sum(other.mean_rank < row.mean_rank for other in ranked if row.mean_rank is not None) + 1  # type: ignore[operator]
    told_rank = f"Place {position} of {len(ranked)} ({_rank(row)})" if row.mean_rank is not None else "No rank"
    basis = f"{row.cells} of {row.wanted} cells" + (f", {row.failed} failed" if row.failed else "")
    told = [(measure, verdict(cells_of(board, row), measure)) for measure in primary(board, measures)]
    parts = [f"{where}{told_rank}", basis, _numbers(row, measures)]
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
            notes = [*([] if worst is None else [f"worst {measure.shown(worst)}"])]
            notes += [f"only {row.partial[measure.name]}"] if measure.name in row.partial else []
            beside = f" ({', '.join(notes)})" if notes else ""
            told.append(f"{measure.title} {measure.shown(row.means[measure.name])}{' %' if measure.share else ''}{beside}")
    return ", ".join(told)
