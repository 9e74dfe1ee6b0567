"""What a board is about, and what the signs in it mean."""

from __future__ import annotations

from testbed.leaderboard import Leaderboard
from testbed.page.markup import listed, tag, text

SIGNS = {
    "±": "half of the 95 % interval over seeds (Student's); every dot is one seed",
    "n": "how many seeds, runs, rows or pairs a number rests on",
    "Δ": "the difference from the baseline on the same seeds and the same poison, with its 95 % interval",
    "*": "after Holm's correction p < .05; below 6 pairs nothing is tested, so that nothing is marked",
    "weak": "the attack is less than 10 points above its clean twin: low success is no merit of a defence there",
    "adaptive": "the attack was made for this very method",
    "↑ ↓": "whether more or less is better for the defender",
    "worst": "the worst case over the cells that count, beside the mean; a rank in brackets is the worst rank",
    "DER": "defence effectiveness: what success was taken away, less the accuracy lost, on a scale where 50 % is no change",
}


def head(board: Leaderboard) -> str:
    """Suite, hash, departures, the declared clean budget, and what is missing."""
    about = [f"{board.done} of {board.wanted} runs done in {len(board.cells)} cells"]
    about += [f"suite hash {board.hash}"] if board.hash else ["no suite: whatever runs the folder holds"]
    about += [f"clean budget of a defender: {board.clean_budget}"] if board.clean_budget else []
    parts = [tag("p", " · ".join(text(word) for word in about), class_="about")]
    if board.departures:
        words = "; ".join(board.departures)
        parts.append(tag("p", tag("b", "Not the suite as declared: "), text(words), class_="departures"))
    for lines, what in ((board.missing, "missing or failed"), (board.unpaired, "not compared with the baseline")):
        if lines:
            parts.append(tag("details", tag("summary", text(f"{len(lines)} {what}")), listed(text(line) for line in lines)))
    return "".join(parts)


def signs() -> str:
    """A line for each sign."""
    lines = [tag("div", tag("dt", text(sign)), tag("dd", text(meaning))) for sign, meaning in SIGNS.items()]
    return tag("details", tag("summary", "What the signs mean"), tag("dl", *lines, class_="signs"))
