"""testbed's own command line with the stand-in for training: the program that gets broken. `python driver.py benchmark ...`.

The workers of a grid import this file as well (as `__mp_main__`), and so know the stand-in too.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from testbed.launcher import job, processes

job.PIPELINES["train"] = "standin:train"
processes.PRELOADED[:] = ["testbed.launcher.work", "testbed.record", "testbed.telling", "standin"]

if __name__ == "__main__":
    from testbed.cli import main

    sys.exit(main())
