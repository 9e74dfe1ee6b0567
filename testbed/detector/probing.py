"""What every probe shares: an axis through the activations of the defender's own rows, along which queries are placed."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Invalid, Victim
from testbed.detector.requirement import require_labels, require_language, reserve_setting
from testbed.features import all_labels, read, require_layer
from testbed.numerics.probe import Axis

FEWEST = 2
"""Rows of each kind that an axis is drawn through, at least."""


@dataclass(frozen=True)
class Probing(Detector):
    """Scores how much a query looks, at `layer`, like rows whose answer is of the kind `suspected`.

    Kinds are classes, or for a chat model 0 (it answers) and 1 (it refuses); the axis runs from the reserve's other rows to
    those of this kind, and knows no trigger. Of a restricted prompt the score says how much the model is about to answer it;
    a harmless prompt has that score by right, so that AUROCs stand against the same prompts without a trigger.
    """

    layer: str = "penultimate"
    suspected: int = 0

    judges: ClassVar[frozenset[str]] = frozenset({"queries"})

    def check(self, resources: DefenderResources) -> None:
        require_language(resources.task)
        require_labels(resources.task)
        classes, fresh = len(resources.task.classes), resources.fresh()
        if not 0 <= self.suspected < classes:
            raise Invalid("suspected", self.suspected, f"must be one of the {classes} kinds", f"from 0 to {classes - 1}")
        require_layer(fresh, self.layer)
        inside = int((fresh.kinds(all_labels(resources.reserve)) == self.suspected).sum())
        if min(inside, len(resources.reserve) - inside) < FEWEST:
            limit = f"{inside} of {len(resources.reserve)} rows have answers of the kind {self.suspected}"
            advice = f"at least {FEWEST} rows of it, and as many others, are needed"
            raise Invalid(reserve_setting(resources.task), None, limit, advice, "data")

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,): positions along the axis."""
        clean = read(victim, resources.reserve, self.layer)
        axis = self.axis(clean.features, clean.labels == self.suspected, resources)
        return axis.position(read(victim, examples, self.layer).features)

    @abstractmethod
    def axis(self, features: Tensor, inside: Tensor, resources: DefenderResources) -> Axis:
        """The axis for features float32 (n, d) of which bool (n,) are of the kind suspected."""
