"""What a board is about, and what the signs in it mean."""

from __future__ import annotations

from testbed.leaderboard import Leaderboard
from testbed.page.markup import listed, tag, text
from testbed.page.place import place

SIGNS = {
    "±": "half of the 95 % interval over seeds (Student's); every dot is one seed",
    "n": "how many seeds, runs, rows or pairs a number rests on",
    "Δ": "the difference from the baseline on the same seeds and the same poison, with its 95 % interval",
    "*": "p < .05 by sign flips over pairs, after Holm's correction; below 6 pairs nothing is tested or marked. "
    "Sign flips test whether differences are symmetric about 0, and not their mean alone: where most seeds change a little one "
    "way and a few change much the other way, a mark says that there is a difference, and not which way the mean goes",
    "cannot be decided": "so few pairs give no mark after Holm's correction over so many tests, however large the differences",
    "weak": "the attack is less than 10 points above its clean twin: low success is no merit of a defence there",
    "unknown": "success on the clean twin is not known, nor therefore whether the attack is weak: it does not count",
    "adaptive": "the attack was made for this very method",
    "↑ ↓": "whether more or less is better for the defender",
    "worst": "the worst case over the cells that count, beside the mean; a rank in brackets is the worst rank",
    "only 1 of 2 cells": "a mean (and worst case) over the cells that a method has: it compares with no other method's",
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
    named = [f"{' '.join(place(row))}: {why}" for row, why in board.left_out.items()]
    folds = (named, "attacks by which nobody is ranked"), (board.missing, "missing or failed")
    for lines, what in (*folds, (board.unpaired, "not compared with the baseline")):
        if lines:
            parts.append(tag("details", tag("summary", text(f"{len(lines)} {what}")), listed(text(line) for line in lines)))
    return "".join(parts)


def signs() -> str:
    """A line for each sign."""
    lines = [tag("div", tag("dt", text(sign)), tag("dd", text(meaning))) for sign, meaning in SIGNS.items()]
    return tag("details", tag("summary", "What the signs mean"), tag("dl", *lines, class_="signs"))
