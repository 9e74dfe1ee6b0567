"""From scores to rows: the declared rules by which a filter turns suspicion into removal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Invalid, Unsupported, Victim


@dataclass(frozen=True)
class Published:
    """The rule of the detector's own paper."""

    def check(self) -> None:
        """There is nothing to refuse."""

    def __call__(
        self, detector: Detector, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources
    ) -> Tensor:
        """bool (n,): what to remove. Raises `Unsupported` for a detector whose paper has no rule."""
        flagged = detector.decide(scores, examples, victim, resources)
        if flagged is None:
            name = type(detector).__name__
            raise Unsupported(f"{name} has no published rule for this task; choose another with defence/rule=")
        return flagged


@dataclass(frozen=True)
class CleanQuantile:
    """Above the (1 - false_alarm_rate) quantile of the detector's scores on the clean reserve."""

    false_alarm_rate: float

    def check(self) -> None:
        """Raises `Invalid` for a rate outside (0, 1)."""
        _require_fraction("rule.false_alarm_rate", self.false_alarm_rate)

    def __call__(
        self, detector: Detector, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources
    ) -> Tensor:
        """bool (n,): what to remove."""
        return scores > clean_quantile(detector, victim, resources, self.false_alarm_rate)


@dataclass(frozen=True)
class FixedFraction:
    """The highest `fraction` of the scores, whatever they are: a declared amount, not a known poison rate."""

    fraction: float

    def check(self) -> None:
        """Raises `Invalid` for a fraction outside (0, 1)."""
        _require_fraction("rule.fraction", self.fraction)

    def __call__(
        self, detector: Detector, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources
    ) -> Tensor:
        """bool (n,): what to remove, floor(fraction n) rows."""
        flagged = torch.zeros(len(scores), dtype=torch.bool)
        flagged[scores.argsort(descending=True, stable=True)[: int(self.fraction * len(scores))]] = True
        return flagged


Rule = Published | CleanQuantile | FixedFraction


def clean_quantile(detector: Detector, victim: Victim, resources: DefenderResources, false_alarm_rate: float) -> float:
    """The score that this share of the clean reserve exceeds (the next higher one of `Detector.reserve_scores`)."""
    clean = detector.reserve_scores(victim, resources).double()
    return float(torch.quantile(clean, 1 - false_alarm_rate, interpolation="higher"))


def _require_fraction(parameter: str, value: float) -> None:
    if not 0 < value < 1:
        raise Invalid(parameter, value, "must lie between 0 and 1, both excluded")
