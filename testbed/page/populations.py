"""Detectors of backdoored models, judged by whole populations of models."""

from __future__ import annotations

from testbed.leaderboard import Leaderboard, Population
from testbed.page.markup import name, tag, text
from testbed.statistics import Interval


def populations(board: Leaderboard) -> str:
    """A row a detector and world: how well its index parts backdoored from clean models, and what it flags; '' if none."""
    if not board.populations:
        return ""
    names = ("world", "detector", "AUROC over models", "clean models flagged, %", "backdoored models flagged, %")
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names)))
    rows = [_row(population) for population in board.populations]
    table = tag("div", tag("table", head, tag("tbody", *rows)), class_="wide", role="region", tabindex="0", aria_label="models")
    said = (
        "In brackets the 95 % interval over models, each counted once: Wilson's, and of AUROC (without the victims of weak "
        "attacks) Newcombe's."
    )
    return tag("h3", "Detectors over whole models") + table + tag("p", said, class_="about")


def _row(one: Population) -> str:
    n = tag("small", text(f"n = {one.clean} clean, {one.backdoored} backdoored"))
    flagged = (tag("td", _rate(rate)) for rate in (one.flagged_clean, one.flagged_backdoored))
    named = (tag("td", text(one.world)), tag("th", name(one.method), scope="row"), tag("td", _auroc(one.auroc), n))
    return tag("tr", *named, *flagged, data_method=one.method)


def _auroc(auroc: Interval | None) -> str:
    if auroc is None or auroc.low is None or auroc.high is None:
        return "–"
    return tag("b", text(f"{auroc.mean:.3f}")) + text(f" [{auroc.low:.3f}, {auroc.high:.3f}]")


def _rate(rate: Interval | None) -> str:
    if rate is None or rate.low is None or rate.high is None:
        return "–"
    told = f" [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    return tag("b", text(f"{100 * rate.mean:.1f}")) + text(told) + tag("small", text(f"n = {rate.n}"))
