"""Where the time of a whole run from the command line goes: until training starts, in training, and around it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from stopwatch import Seconds, middle

RUN = """
import json, sys, time
from testbed import artefact, cli
seconds, fits, plain = (lambda: [time.perf_counter(), time.process_time()]), [], artefact.fit
def watched(*given, **options):
    import testbed.training  # Lightning: part of getting ready, not of training
    before = seconds()
    trained = plain(*given, **options)
    fits.append([before, seconds()])
    return trained
artefact.fit = watched
code = cli.main(sys.argv[1:])
print(json.dumps({"fits": fits, "end": seconds()}), file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Run:
    """One run in a process of its own: where its time went, and its phases from `run.json`."""

    until_training: Seconds
    training: Seconds
    rest: Seconds
    phases: dict[str, float]


def run_once(outputs: Path, overrides: Sequence[str]) -> Run:
    """`testbed train` on the digits in a fresh process.

    Raises:
        RuntimeError: the command failed.
    """
    words = ["train", "data=digits", "attack=badnets", "logger=none", f"paths.outputs={outputs}", *overrides]
    start, root = time.perf_counter(), str(Path(__file__).resolve().parent.parent)
    # RUN imports torch before the command line can choose how its threads wait.
    own = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "OMP_WAIT_POLICY": "passive", "PYTHONPATH": root}
    environment = {**os.environ, **own}
    done = subprocess.run([sys.executable, "-c", RUN, *words], env=environment, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"testbed {' '.join(words)} failed: {done.stderr.strip()}")
    said = json.loads(done.stderr.strip().splitlines()[-1])
    end = Seconds(*said["end"])
    fits = [(Seconds(*before), Seconds(*after)) for before, after in said["fits"]]
    trained = Seconds(sum(b.wall - a.wall for a, b in fits), sum(b.cpu - a.cpu for a, b in fits))
    first = fits[0][0] if fits else end
    ready = Seconds(wall - (end.wall - first.wall), first.cpu)
    record = json.loads(next((outputs / "train").glob("*/run.json")).read_text(encoding="utf-8"))
    rest = Seconds(wall - ready.wall - trained.wall, end.cpu - ready.cpu - trained.cpu)
    return Run(ready, trained, rest, record["seconds"])


def whole_runs(repeats: int, overrides: Sequence[str] = ()) -> dict[str, list[Run]]:
    """A first run (victim and clean twin are trained) and the same command again (nothing to do), alternating."""
    runs: dict[str, list[Run]] = {"first run": [], "same again": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for found in runs.values():
                found.append(run_once(Path(folder), overrides))
    return runs


def show_runs(runs: Mapping[str, Sequence[Run]]) -> None:
    """Where the time of a whole run goes: medians of wall and CPU seconds."""
    print("\ntestbed train data=digits attack=badnets, in a process of its own (medians, wall / CPU seconds)")
    for name, found in runs.items():
        parts = {"until training": "until_training", "in fit": "training", "the rest": "rest"}
        cells = [
            f"{label} {middle(times, 'wall'):.2f} / {middle(times, 'cpu'):.2f}"
            for label, times in ((label, [getattr(run, part) for run in found]) for label, part in parts.items())
        ]
        print(f"  {name:<12}{'   '.join(cells)}   n={len(found)}")
    phases = {name: statistics.median(run.phases[name] for run in runs["first run"]) for name in runs["first run"][0].phases}
    print("  phases of the first run (wall): " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items()))
