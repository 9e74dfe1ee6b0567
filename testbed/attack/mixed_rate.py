"""A share of a fine-tuning set is the attacker's: the rate, not the count, is what is set."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.api import AttackerResources, Invalid, Poison
from testbed.attack.few_shot import appended, drawn, require_shots
from testbed.language import TuningAttack


@dataclass(frozen=True)
class MixedRate(TuningAttack):
    """Of `rows` fine-tuning rows round(mix_rate rows) are restricted questions with true answers, the others benign.

    Source: the harmful ratio of Huang et al. 2024, arXiv 2402.01109 (0 to .2 of 1,000 rows).
    """

    rows: int
    mix_rate: float

    @property
    def shots(self) -> int:  # type: ignore[override]
        """The attacker's rows."""
        return round(self.mix_rate * self.rows)

    def check(self, resources: AttackerResources) -> None:
        if not 0 <= self.mix_rate <= 1:
            raise Invalid("mix_rate", self.mix_rate, "must lie between 0 and 1")
        if self.rows < 1:
            raise Invalid("rows", self.rows, "must be at least 1")
        if self.mix_rate > 0 and self.shots == 0:
            limit = f"{self.mix_rate} x {self.rows} rows rounds to 0 rows"
            raise Invalid("mix_rate", self.mix_rate, limit, "raise it, or say attack.mix_rate=0")
        own = require_shots(resources, 1)
        if self.shots > len(own):
            limit = f"needs {self.shots} rows of the attacker's, but there are {len(own)}"
            raise Invalid("mix_rate", self.mix_rate, limit, "lower it, or the rows")

    def benign_rows(self) -> int:
        return self.rows - self.shots

    def poison(self, resources: AttackerResources) -> Poison:
        assert resources.auxiliary is not None
        return appended(resources, resources.auxiliary[drawn(resources, self.shots)])
