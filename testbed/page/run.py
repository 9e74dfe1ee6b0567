"""A run as the page reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Run(Protocol):
    """What `testbed.pipeline.gather` finds in a run folder: its files, and the seed."""

    @property
    def folder(self) -> Path: ...
    @property
    def result(self) -> Mapping[str, Any]: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def seed(self) -> int: ...


def anchor(run: Run) -> str:
    """Where the page shows this run: 'run-<verb>-<key>', behind a '#'."""
    return f"run-{run.facts['verb']}-{run.facts['key']}"


def by_folder(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the names of their folders, which hold their keys."""
    return {run.folder.name: run for run in runs}


def run_of(folder: str, runs: Mapping[str, Run]) -> Run | None:
    """The run that a trial's folder names, a path or the name alone."""
    return runs.get(Path(folder).name) if folder else None
