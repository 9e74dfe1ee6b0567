"""By which rules trials are compared: what is ranked, what is counted, which tests belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from testbed.plan import CLEAN, Request
from testbed.suite import Suite

USUAL = {
    "train": ("clean_accuracy", "attack_success_rate", "robust_accuracy", "defence_effectiveness"),
    "detect": ("auroc", "tpr_at_fpr_05", "tpr_at_rule", "false_alarm_rate"),
    "degrade": ("refusal_auc_log_steps", "refusal_rate_end", "utility_end", "over_refusal_end", "alignment_tax"),
}
"""The measures of which standings tell means and worst cases, and of which differences are taken."""
RANKED = {"train": "defence_effectiveness", "detect": "auroc", "degrade": "refusal_auc_log_steps"}
"""What methods are ranked by; of a degrading alignment the one that no run leaves undefined by ending too soon."""
SIGNIFICANT = 0.05
"""A difference is marked where its p, corrected within its family, is below this."""
EXACT, DRAWN = 13, 9999
"""The sign-flip test makes every flip up to so many pairs, and draws so many flips of more."""
OUTCOME = re.compile(
    r"(undefended_|clean_twin_)?\w*(attack_success_rate|robust_accuracy)|defence_effectiveness|(target_)?flagged"
)
"""Names of measures that tell how a trial of a targeted attack ended, so that they are judged over trials."""
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


def fewest_pairs(tests: int) -> int | None:
    """The fewest pairs with which one of so many tests of a family can have a mark: least n of tests * 2 / 2^n < 0.05.

    Sign flips of n pairs can give no p below 2 / 2^n, and Holm's correction multiplies the least of a family by the number of
    its tests: 1 test needs 6 pairs, 2 need 7, 8 need 9 and 20 need 10. Flips that are drawn give none below 2 / 10,000: None
    where so large a family can have no mark with any number of pairs.
    """
    enough = (pairs for pairs in range(1, EXACT + 1) if tests * 2 / 2**pairs < SIGNIFICANT)
    return next(enough, EXACT + 1 if tests * 2 / (DRAWN + 1) < SIGNIFICANT else None)


def largest_family(suite: Suite, requests: Iterable[Request], families: Sequence[Sequence[str]]) -> int:
    """The tests of the largest of these families of one method: measures times the rows that can count; 0 where none is."""
    if suite.baseline is None or not families:
        return 0
    rows: dict[str, set[tuple[str, str, float | None]]] = {}
    for one in requests:
        if one.attack != CLEAN and one.method != suite.baseline and one.attack in (suite.counted or (one.attack,)):
            rows.setdefault(one.method, set()).add((one.world, one.attack, one.rate))
    return max(map(len, rows.values()), default=0) * max(map(len, families))


def seeds_to_decide(suite: Suite, requests: Sequence[Request]) -> str:
    """'from 9 seeds on a difference can be significant (8 tests a method, Holm); 3 are asked for', before any run is made.

    Of targeted attacks outcomes are paired by trial; what is no outcome is paired by seed, however many trials there are. Both
    are corrected by all tests of their family.
    """
    asked = {"trials": len({(one.seed, one.trial) for one in requests}), "seeds": len({one.seed for one in requests})}
    found = {}
    for pairs, number in asked.items():
        mine = [family for family in suite.families if any(_paired_by(name, suite) == pairs for name in family)]
        if tests := largest_family(suite, requests, mine):
            found[pairs] = _decided(tests, pairs, number)
    if len(found) == 2:
        return f"outcomes: {found['trials']}; other measures: {found['seeds']}"
    return next(iter(found.values()), "this suite tests no differences")


def _paired_by(name: str, suite: Suite) -> str:
    return "trials" if suite.targets > 1 and OUTCOME.fullmatch(name) else "seeds"


def _decided(tests: int, pairs: str, asked: int) -> str:
    fewest, told = fewest_pairs(tests), f"({tests} test{'s' if tests > 1 else ''} a method, Holm)"
    if fewest is None:
        return f"no number of {pairs} can make a difference significant {told}"
    return f"from {fewest} {pairs} on a difference can be significant {told}; {asked} {'are' if asked > 1 else 'is'} asked for"
