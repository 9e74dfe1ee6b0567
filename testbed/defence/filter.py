"""A detector of poisoned rows made into a defence: remove what it flags, train on the rest."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.api import Defence, DefenderResources, Detector, Examples, Invalid, ModelDetector, component
from testbed.defence.rule import Rule
from testbed.features import select


@dataclass(frozen=True)
class Filter(Defence):
    """Trains a first model on the rows as received, lets `detector` score them through it, and removes what `rule` says.

    Source: the common frame of Tran et al. 2018 (arXiv 1811.00636) and Chen et al. 2018 (arXiv 1811.03728).
    """

    detector: Detector | ModelDetector
    rule: Rule

    def check(self, resources: DefenderResources) -> None:
        require_judge(self.detector, "rows", "filter")
        with component("detector"):
            self.detector.check(resources)
        self.rule.check()

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        first = resources.fit(resources.fresh(), received)
        scores = self.detector.score(received, first, resources)  # type: ignore[union-attr]
        flagged = self.rule(self.detector, scores, received, first, resources)  # type: ignore[arg-type]
        return select(received, (~flagged).nonzero().flatten())


def require_judge(detector: Detector | ModelDetector, kind: str, defence: str) -> None:
    """Raises `Invalid` for a detector that judges something else."""
    if kind not in detector.judges:
        name, judged = type(detector).__name__, " and ".join(sorted(detector.judges))
        other = {"rows": "defence=filter", "queries": "defence=reject"}.get(min(detector.judges), "testbed detect")
        raise Invalid(
            "", name, f"judges {judged}, but defence={defence} needs one that judges {kind}", f"use {other}", "detector"
        )
