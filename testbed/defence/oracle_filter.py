"""The control that no filter can beat: it is told which rows are poisoned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from testbed.api import Defence, DefenderResources, Examples, OracleResources
from testbed.features import select


@dataclass(frozen=True)
class OracleFilter(Defence):
    """Removes exactly the poisoned rows. Not a defence: the upper bound of every filter (as the perfect filter of Armory)."""

    oracle: ClassVar[bool] = True

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        if not isinstance(resources, OracleResources) or resources.poisoned is None:
            raise TypeError("the oracle filter needs an oracle's resources")
        return select(received, (~resources.poisoned).nonzero().flatten())
