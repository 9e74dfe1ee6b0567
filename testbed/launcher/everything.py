"""`testbed check` without a name: every method of every group, one after the other in one process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from testbed.launcher.compose import configuration, plain
from testbed.launcher.job import Job, run
from testbed.launcher.search import SearchPath

FOR_MODELS = ("data=icons", "data.train_size=700", "data.test_size=100")
"""Colour images of 32 pixels, which every shipped model can read, unless the user names other data."""


def check_everything(job: Job, overrides: Sequence[str], search: SearchPath) -> int:
    """Check each option of each group of methods, with the other overrides; 0 if all is well, otherwise 1."""
    from testbed.contract.examination import GROUPS

    methods = [f"{group}={name}" for group in GROUPS for name in search.options(group)]
    chosen = any(word.startswith("data=") for word in overrides)
    larger = {method: FOR_MODELS for method in methods if method.startswith("model=") and not chosen}
    bad = [method for method in methods if run(_job(job, [*larger.get(method, ()), *overrides, method], search))]
    print(f"not as promised: {', '.join(bad)}" if bad else "all methods keep their promises", file=sys.stderr)
    return 1 if bad else 0


def _job(job: Job, overrides: Sequence[str], search: SearchPath) -> Job:
    composed = configuration("check", overrides, search)
    command = ("testbed", "check", *overrides)
    return replace(job, config=plain(composed.config), choices=composed.choices, command=command)
