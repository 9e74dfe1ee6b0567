"""What breaking something found: figures for people, what was promised, and whether it was kept."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

SHOWN = 5
"""Of what was found wrong, so many are named."""


@dataclass
class Found:
    """Figures, and by promise what broke it ('' where it was kept)."""

    figures: dict[str, Any]
    promises: dict[str, str] = field(default_factory=dict)

    def require(self, promise: str, kept: bool, otherwise: object = "") -> None:
        """Note whether something that was promised is so, and if not, what is."""
        self.promises[promise] = "" if kept else str(otherwise) or "broken"

    def none(self, what: str, found: Collection[Any]) -> None:
        """Note that there is nothing of what must not be."""
        first = ", ".join(map(str, list(found)[:SHOWN]))
        self.require(f"{what}: 0", not found, f"{len(found)}: {first}{', ...' if len(found) > SHOWN else ''}")

    @property
    def broken(self) -> dict[str, str]:
        """The promises that were not kept."""
        return {promise: why for promise, why in self.promises.items() if why}

    def show(self, title: str, words: Mapping[str, Any]) -> int:
        """Print it all: 0 if every promise was kept, 1 if not."""
        self.figures["measured on"] = (
            f"{date.today():%Y-%m-%d}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[1]:.1f}"
        )
        print(f"{title} ({', '.join(f'{name}={value}' for name, value in words.items())})")
        width = max(map(len, self.figures), default=0)
        for name, value in self.figures.items():
            print(f"  {name:<{width}}  {value}")
        for promise, why in self.promises.items():
            print(f"  {'BROKEN' if why else 'kept  '}  {promise}{f': {why}' if why else ''}")
        return 1 if self.broken else 0
