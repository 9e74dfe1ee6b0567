"""No defence: what every other defence is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.api import Defence


@dataclass(frozen=True)
class NoDefence(Defence):
    """Leaves everything as it is."""
