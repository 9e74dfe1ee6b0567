"""What killed processes left below a folder of outputs is brought in order when the next command starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from testbed.files import leftovers, restore, sweep
from testbed.lock import FOLDER as LOCKS
from testbed.lock import attempted

WRITTEN = ("*/", f"*/{LOCKS}/", "index/*/", "benchmark/*/", "benchmark/*/slurm/", "checkpoint/*/")
"""Where below the outputs something may lie under a temporary name."""


def tidy(outputs: Path) -> None:
    """Bring in order what killed processes left below these outputs; what others are making is left alone."""
    for parent in (parent for pattern in WRITTEN for parent in outputs.glob(pattern)):
        sweep(parent)
        for name in leftovers(parent):
            with attempted(parent / name) as mine:
                if mine:
                    restore(parent / name)
    for checkpoints in outputs.glob("checkpoint/*/"):  # of trainings that a kill cut off between their end and this
        if (outputs / "victim" / checkpoints.name / "card.json").is_file():
            shutil.rmtree(checkpoints, ignore_errors=True)
