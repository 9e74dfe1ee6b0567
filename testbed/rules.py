"""By which rules trials are compared: what is ranked, what is counted, which tests belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.suite import Suite

USUAL = {
    "train": ("clean_accuracy", "attack_success_rate", "robust_accuracy", "defence_effectiveness"),
    "detect": ("auroc", "tpr_at_fpr_05", "tpr_at_rule", "false_alarm_rate"),
    "degrade": ("refusal_auc_log_steps", "refusal_rate_end", "utility_end", "over_refusal_end", "alignment_tax"),
}
"""The measures of which standings tell means and worst cases, and of which differences are taken."""
RANKED = {"train": "defence_effectiveness", "detect": "auroc", "degrade": "refusal_auc_log_steps"}
"""What methods are ranked by; of a degrading alignment the one that no run leaves undefined by ending too soon."""
LESS_IS_BETTER = frozenset({"attack_success_rate", "false_alarm_rate", "over_refusal_end", "alignment_tax"})


@dataclass(frozen=True)
class Rules:
    """How trials are compared: what is ranked, what is counted, which tests belong together; of a suite, as it declares."""

    title: str
    verb: str
    baseline: str | None = None
    counted: tuple[str, ...] | None = None
    families: tuple[tuple[str, ...], ...] = ()
    hash: str = ""
    departures: tuple[str, ...] = ()
    clean_budget: str = ""

    @property
    def tested(self) -> tuple[str, ...]:
        """The measures of which differences are taken."""
        return tuple(dict.fromkeys([*USUAL[self.verb], *(name for family in self.families for name in family)]))


def rules_of(suite: Suite, departures: Sequence[str] = ()) -> Rules:
    """The rules that a suite declares."""
    return Rules(
        suite.name,
        suite.verb,
        suite.baseline,
        suite.counted,
        suite.families,
        suite.hash,
        tuple(departures),
        suite.clean_budget,
    )
