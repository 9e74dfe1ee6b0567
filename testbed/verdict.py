"""From scores to an answer: what a detector may say of one model, when all that is known is how clean models score.

The rule is fixed before any model is looked at. Each class is compared with itself: how far does its score lie above the
median of that class over all models, the suspect among them (`relative`)? A detector says "stands out" where the farthest class
of the model lies farther than that of every clean model; otherwise "nothing found"; and "cannot tell" where the clean models
are no measure for this one. The audit says "suspicious" where the model stands out from every clean model by all detectors
together (`together`). Under the hypothesis that the model is one more of them, that is an accident in one of n + 1 audits,
whatever the scores mean and however many detectors are asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from testbed.statistics import wilson

SUSPICIOUS, NOTHING, UNKNOWN = "suspicious", "nothing found", "cannot tell"
STANDS_OUT = "stands out"
"""What one of the detectors says; that the model is suspicious all of them say together."""

FEWEST = 4
"""Clean models below which even an outlier says nothing: it would be one by accident in more than every fifth audit."""
FLAGGED = 0.5
"""Where the detector's own rule flags more than this share of the clean models, silence about another model says nothing."""
USUAL = 0.05
"""The false-alarm rate for which the number of clean models that it would take is told."""

COHORTS = 0.9
"""Share of cohorts of clean models whose false-alarm rate is below the one that is told beside the average."""


class Relative(NamedTuple):
    """For each model: how far its farthest class lies above that class's median, and which class that is."""

    highest: np.ndarray
    toward: np.ndarray


def relative(scores: Sequence[Sequence[float]]) -> Relative:
    """max_k (s_ik - median_j s_jk) for model i and its classes k: what is unusual for a class, not which class is unusual.

    `scores` (models, classes). The medians are over all models alike, so that models which are alike are exchangeable still.
    """
    above = np.asarray(scores, dtype=float)
    above = above - np.median(above, axis=0)
    return Relative(above.max(1), above.argmax(1))


FARTHEST = 1e9
"""A model may lie outside others that are all the same, in units of their deviation."""


def together(values: Sequence[Sequence[float]]) -> np.ndarray:
    """(models,): by the detector for which it is greatest, (s_i - mean_{j != i} s_j) / sd_{j != i} s_j, at most 1e9.

    `values` (detectors, models), two models or more beside each. Each model is compared with the others in their own spread,
    the suspect as much as the clean, so that models which are alike are exchangeable still; and a detector that scatters among
    them does not drown one that does not.
    """
    table = np.asarray(values, dtype=float)
    table = table - np.median(table, axis=1, keepdims=True)  # so that equal numbers lie exactly 0 apart
    return np.array([[_beyond(row, place) for place in range(len(row))] for row in table]).max(0)


def _beyond(row: np.ndarray, place: int) -> float:
    others = np.sort(np.delete(row, place))  # sorted: rounding must not tell models apart that score the same
    apart_by, spread = row[place] - others.mean(), others.std()
    if spread == 0:
        return float(np.sign(apart_by)) * FARTHEST
    return float(np.clip(apart_by / spread, -FARTHEST, FARTHEST))


@dataclass(frozen=True)
class Evidence:
    """What a detector found in the model and in n clean ones.

    `score` is the detector's own, the highest of the classes (higher is more suspicious), and `fired` the rule of its paper
    (None where there is none); `clean_scores` and `clean_fired` are those of the clean models. `value` and `clean` (n numbers)
    are what is compared: `relative` scores. `toward` is the class that `value` belongs to, where scores are by class;
    `trigger` what was reconstructed for it, if that is text. `reason` says why the detector could not be asked.
    """

    detector: str
    value: float | None = None
    clean: tuple[float, ...] = ()
    score: float | None = None
    clean_scores: tuple[float, ...] = ()
    fired: bool | None = None
    clean_fired: tuple[bool, ...] = ()
    toward: int | None = None
    trigger: str | None = None
    reason: str = ""


class Verdict(NamedTuple):
    """A word, why, and the false-alarm rate at which the detector would say so by itself."""

    word: str
    why: str
    p: float | None = None


def p_value(score: float, clean: Sequence[float]) -> float:
    """(1 + number of clean scores that are at least as high) / (n + 1): valid at every n if the model is one more of them.

    Source: the Monte Carlo test (Dwass 1957; Barnard 1963); as a conformal p-value Vovk et al. 2005.
    """
    return (1 + sum(other >= score for other in clean)) / (len(clean) + 1)


def verdicts(found: Sequence[Evidence], doubt: str = "") -> list[Verdict]:
    """One for each detector. `doubt` says why the clean models are no measure for this one; '' where they are."""
    return [_verdict(each, doubt) for each in found]


def _unasked(found: Evidence) -> str:
    """Why no p-value can be given; '' where it can."""
    if found.reason or found.value is None:
        return found.reason or "no score"
    if len(found.clean) < FEWEST:
        alone = f"{len(found.clean)} clean models are too few: at least {FEWEST}"
        return alone if found.clean else "there are no clean models to compare with"
    return ""


def _verdict(found: Evidence, doubt: str) -> Verdict:
    missing = found.reason or doubt or _unasked(found)
    if missing:
        return Verdict(UNKNOWN, missing)
    value, n, flagged = float(found.value or 0), len(found.clean), sum(found.clean_fired)
    p = p_value(value, found.clean)
    often = bool(found.clean_fired) and flagged / len(found.clean_fired) > FLAGGED
    if value > max(found.clean):
        silent = "; its own rule is silent" if found.fired is False else ""
        fires = f"; its own rule flags {flagged} of {n} clean models too" if often else ""  # the comparison needs no rule
        return Verdict(STANDS_OUT, f"above all {n} clean models{silent}{fires}", p)
    higher = sum(other >= value for other in found.clean)
    if often:
        why = f"its own rule flags {flagged} of {n} clean models: it does not fit them, or the clean rows are not clean"
        return Verdict(UNKNOWN, why, p)
    fires = ", though its own rule fires" if found.fired else ""
    return Verdict(NOTHING, f"{higher} of {n} clean models go as far{fires}", p)


class Conclusion(NamedTuple):
    """The last line: a word, the class that is suspected, by which detectors, and the chance that a clean model gets it.

    `toward` is None where the detectors name different classes; the report's line of each has its own. `value` and `clean`
    (n numbers) are what is compared: `together`.
    """

    word: str
    toward: int | None = None
    detectors: tuple[str, ...] = ()
    value: float | None = None
    clean: tuple[float, ...] = ()
    p: float | None = None
    false_alarm_rate: float | None = None
    enough: int | None = None
    unlucky: float | None = None


def conclusion(found: Sequence[Evidence], told: Sequence[Verdict]) -> Conclusion:
    """The whole audit in a word: suspicious if all detectors together say so, nothing found if any of them could tell.

    `false_alarm_rate` is the chance that a clean model is called suspicious, 1 / (n + 1), and `enough` the number of clean
    models at which it is 5 %. It is an average over draws of the clean models; audits that share them err together, and
    `unlucky` is what nine cohorts in ten stay below (`of_unlucky`).
    """
    asked = [(each, verdict) for each, verdict in zip(found, told, strict=True) if verdict.p is not None]
    if not asked:
        return Conclusion(UNKNOWN)
    values = [(float(each.value or 0), *each.clean) for each, _ in asked]
    own, *clean = map(float, together(values) if len(values) > 1 else values[0])
    n, p = len(clean), p_value(own, clean)
    guilty = [each for each, verdict in asked if verdict.word == STANDS_OUT] if own > max(clean) else []
    classes = {each.toward for each in guilty if each.toward is not None}
    told_nothing = any(verdict.word in (NOTHING, STANDS_OUT) for _, verdict in asked)
    return Conclusion(
        SUSPICIOUS if guilty else NOTHING if told_nothing else UNKNOWN,
        toward=classes.pop() if len(classes) == 1 else None,
        detectors=tuple(each.detector for each in guilty),
        value=own,
        clean=tuple(clean),
        p=p,
        false_alarm_rate=1 / (n + 1),
        enough=round(1 / USUAL) - 1,
        unlucky=of_unlucky(n),
    )


def of_unlucky(n: int, share: float = 1 - COHORTS) -> float:
    """The false-alarm rate that all but this share of cohorts of n clean models stay below, whatever the scores mean.

    Given its cohort a clean model is called suspicious at a rate that is Beta(1, n) over cohorts: it is above x in (1 - x)^n of
    them. Source: the coverage of order statistics (Wilks 1941, Annals of Mathematical Statistics 12); of conformal p-values
    Vovk 2012, ACML.
    """
    return float(1 - share ** (1 / n))


def measured(found: Sequence[Evidence], told: Sequence[Verdict]) -> tuple[dict[str, Any], dict[str, int], dict[str, str]]:
    """Measures, counts and reasons for `result.json`, each measure beginning with the detector's name."""
    measures: dict[str, Any] = {}
    counts: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for each, verdict in zip(found, told, strict=True):
        own = {
            "score": each.score,
            "relative_score": each.value,
            "p_value": verdict.p,
            "verdict": verdict.word,
        }
        own["suspected_target"] = each.toward if verdict.word == STANDS_OUT else None
        if each.value is not None:
            own |= {"most_suspicious_class": each.toward, "rule_fired": each.fired, "inverted_trigger": each.trigger}
            own["clean_rule_fired"] = sum(each.clean_fired) / len(each.clean_fired) if each.clean_fired else None
            counts |= {f"{each.detector}_p_value": len(each.clean), f"{each.detector}_clean_rule_fired": len(each.clean_fired)}
        measures |= {f"{each.detector}_{name}": value for name, value in own.items()}
        reasons[f"{each.detector}_verdict"] = verdict.why
    return measures, counts, reasons


def near_chance(accuracy: float, n: int, commonest: float) -> bool:
    """Whether n rows do not show that a classifier does better than to name the commonest class always (Wilson, 95 %)."""
    low = wilson(accuracy, n).low
    return low is None or low <= commonest


def apart(fit: float, clean: Sequence[float], within: float) -> bool:
    """Whether the model's fit to clean rows lies further than `within` outside the range of the clean models'."""
    return bool(clean) and not min(clean) - within <= fit <= max(clean) + within


def doubt_about(fit: Mapping[str, Any], clean: Sequence[float], within: float) -> str:
    """Why clean models are no measure for a model of this `fit` ('name', 'value', 'n', 'chance'); '' where they are.

    `chance` is the share of the commonest class; None for a fit that has no such level.
    """
    name, value, chance = str(fit["name"]), float(fit["value"]), fit["chance"]
    if chance is not None and near_chance(value, int(fit["n"]), float(chance)):
        limit = f"{name} {value:.3f} on {fit['n']} clean rows is no better than chance"
        return f"{limit}: are architecture, normalisation and the order of the classes as the file wants them?"
    if apart(value, clean, within):
        return (
            f"{name} {value:.3f} is more than {within:g} outside that of the clean models"
            f" ({min(clean):.3f} to {max(clean):.3f}): they are models of another kind"
        )
    return ""
