"""What a person calls a measure, which way is better, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from testbed.leaderboard import Cell, Leaderboard, Spread
from testbed.statistics import Interval
from testbed.table import heading, number, of_trials


class Measure(NamedTuple):
    """A column: `better` is 1 where more is better for the defender, -1 where less is, 0 where neither can be said.

    A `share` is a number in 0..1 and shown in percent. `limit` names the measure that a null value is then greater than.
    """

    name: str
    better: int = 0
    share: bool = True
    limit: str = ""

    @property
    def title(self) -> str:
        return heading(self.name)

    @property
    def unit(self) -> str:
        return ", %" if self.share else ""

    @property
    def arrow(self) -> str:
        return {1: "↑", -1: "↓", 0: ""}[self.better]

    def shown(self, value: float | None) -> str:
        """The number alone: '94.2' of the share 0.942; '–' where there is none."""
        if value is None:
            return "–"
        return f"{100 * value:.1f}".replace("-", "−") if self.share else number(value).replace("-", "−")

    def interval(self, interval: Interval) -> str:
        """'± 1.2', or '' where one number is all there is; '[38.7, 78.1]' of one that reaches further to one side."""
        if interval.low is None or interval.high is None:
            return ""
        above, below = interval.high - interval.mean, interval.mean - interval.low
        return (
            f"± {self.shown(above)}"
            if abs(above - below) < 1e-9
            else f"[{self.shown(interval.low)}, {self.shown(interval.high)}]"
        )

    def basis(self, spread: Spread) -> str:
        """What a mean rests on: 'n = 3' models, or '12 of 20 trials'."""
        return f"n = {spread.interval.n}" if spread.trials is None else of_trials(spread.trials.values())


USUAL: Mapping[str, tuple[Measure, ...]] = {
    "train": (
        Measure("attack_success_rate", -1),
        Measure("clean_accuracy", 1),
        Measure("robust_accuracy", 1),
        Measure("defence_effectiveness", 1),
    ),
    "detect": (
        Measure("auroc", 1, share=False),
        Measure("tpr_at_fpr_05", 1),
        Measure("tpr_at_rule", 1),
        Measure("false_alarm_rate", -1),
        Measure("anomaly_index", share=False),
        Measure("target_flagged", 1),
        Measure("other_classes_flagged", -1, share=False),
    ),
    "degrade": (
        Measure("refusal_rate_end", 1),
        Measure("utility_end", 1),
        Measure("refusal_auc_log_steps", 1, share=False),
        Measure("half_life_steps", 1, share=False, limit="half_life_censored_at"),
        Measure("correct_compliance_end", -1),
        Measure("over_refusal_end", -1),
        Measure("refusal_rate_start", 1),
        Measure("durability_ratio", 1, share=False, limit="durability_ratio_at_least"),
        Measure("alignment_tax", -1, share=False),
        Measure("trainability", 1, share=False),
    ),
}
KNOWN = {measure.name: measure for measures in USUAL.values() for measure in measures}
"""Every measure of which the page knows the direction."""


def measure_of(name: str) -> Measure:
    """What is known of a measure; a plain number of unknown direction if nothing is."""
    for prefix in ("undefended_", "clean_twin_"):
        name_within = name.removeprefix(prefix)
        if name_within != name and name_within in KNOWN:
            return KNOWN[name_within]._replace(name=name, limit="")
    return KNOWN.get(name, Measure(name, share=False))


def columns(board: Leaderboard, asked: Sequence[str] = ()) -> list[Measure]:
    """The measures that a board shows: those asked for, or the usual ones of its verb, as far as any of its cells has them."""
    names = list(asked) or [measure.name for measure in USUAL.get(board.verb, ())]
    return [measure_of(name) for name in names if any(_told(cell, measure_of(name)) for cell in board.cells)]


def _told(cell: Cell, measure: Measure) -> bool:
    return measure.name in cell.spreads or any(trial.measures.get(measure.limit) is not None for trial in cell.trials)
