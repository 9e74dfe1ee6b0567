"""Commands of the testbed, said by programs that make pages, and numbers as those pages write them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 7200
"""Seconds that a command may take."""
PROGRAM = "import sys; from testbed.cli import main; sys.exit(main())"


def folders_of(words: Sequence[str], outputs: Path) -> list[Path]:
    """Say a command, and read off what it prints where its runs are, whether it made them now or found them finished.

    Raises:
        SystemExit: the command failed.
    """
    whole = [*words, "logger=none", f"paths.outputs={outputs}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, *whole], capture_output=True, text=True, timeout=LONGEST, check=False, env=environment
    )
    if said.returncode:
        raise SystemExit(f"testbed {' '.join(whole)}: exit code {said.returncode}\n{said.stdout[-2000:]}{said.stderr[-2000:]}")
    lines = (Path(line) for line in said.stdout.splitlines() if line.startswith(str(outputs)))
    return [folder for folder in lines if (folder / "result.json").is_file()]


def number(value: float) -> str:
    """'.988', '0', '1', '12.3'."""
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return re.sub(r"^(-?)0\.", r"\1.", text).replace("-", "−") if text not in ("-0", "0") else "0"


def spread(values: Sequence[float]) -> str:
    """'.988 (.978 .989 .997)', or '1' where all are written alike."""
    each = [number(float(value)) for value in values]
    return number(fmean(map(float, values))) + (f" ({' '.join(each)})" if len(set(each)) > 1 else "")
