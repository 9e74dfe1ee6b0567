"""An optimised trigger that has met the defence beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from testbed.attack.optimised_trigger import OptimisedTrigger


@dataclass(frozen=True)
class AdaptiveTrigger(OptimisedTrigger):
    """`OptimisedTrigger` by an attacker who is handed this very defence, its parameters and its objective.

    The attacker knows how the defender works and has neither its rows, its reserve, its seeds nor its model. Against a defence
    that does nothing, or with none, it is an ordinary optimised trigger of the same budget.

    Source: evaluation by attacks that are made for the defence at hand (Tramer et al. 2020, arXiv 2002.08347).
    """

    adaptive: ClassVar[bool] = True
