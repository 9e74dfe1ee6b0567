"""RESTA: what alignment changed in the weights is added once more."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

from testbed.api import Defence, DefenderResources, Invalid, Victim
from testbed.defence.weight import reference_of, safety_vector, weights
from testbed.defence.wrapper import chat_task


@dataclass(frozen=True)
class Resta(Defence):
    """Adds the safety vector: w + `gamma` (w_aligned - w_base), over all parameters; low-rank adapters count as what they add.

    The paper subtracts a model that was made harmful by fine-tuning; here the base model, before alignment, stands for it.
    The tuned model's own change stays where it is: this is no interpolation towards the aligned model. Weights of bfloat16 are
    rounded to 8 bits, so that where the vector is below 1/512 of a weight, nothing is added to that weight.

    Stage: after fine-tuning. Access: the weights of the tuned, the aligned and the base model.
    Source: Bhardwaj et al. 2024, arXiv 2402.11746.
    """

    gamma: float

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        reference_of(resources)
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise Invalid("gamma", self.gamma, "must be at least 0", "0 adds nothing")

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        base, aligned = map(weights, reference_of(resources))
        if not self.gamma:
            return victim
        repaired = copy.deepcopy(victim)
        for name, weight in weights(repaired).items():
            weight.add(self.gamma * safety_vector(base, aligned, name, weight.parameter))
        return repaired
