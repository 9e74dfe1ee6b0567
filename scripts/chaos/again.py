"""A finished sweep asked for again: nothing is run, nothing heavy is imported, and the answer comes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verdict import Found
from world import ROOT, World

PROBE = """
import resource, sys, time
started = time.monotonic()
from testbed.cli import main
code = main(sys.argv[1:])
heavy = sorted({"torch", "numpy", "scipy", "sklearn", "pandas", "pytorch_lightning", "wandb", "hydra"} & set(sys.modules))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("\\nprobe:", __import__("json").dumps({"heavy": heavy, "peak": peak, "processor": time.process_time()}))
sys.exit(code)
"""
SECONDS, MEGABYTES = 5.0, 200.0


def again(place: Path, *, runs: int = 10_000, repeats: int = 3) -> Found:
    """A finished sweep of `runs` runs, asked for again by the real command line: 0 runs, in seconds, without PyTorch.

    The runs are committed by the record code and entered in the index one by one, as a worker does it, but by one process that
    composes no configuration, does not wait for the disk (no fsync: the state is made for this, and need not survive a loss of
    power), looks for no runs of other code and no leftovers (there are none) and asks once for the commit and the versions:
    what is measured here is the rerun.
    """
    world = World(place, {"well": {}, "again": {}}, max(1, runs // 4))
    began = time.monotonic()
    made = subprocess.run([sys.executable, "-c", FINISH, str(place)], cwd=place, env=world.variables(), text=True, check=False)
    seconds = time.monotonic() - began
    before = _state(place / "outputs")
    reruns = [_rerun(world) for _ in range(repeats)]
    slowest = max(rerun["seconds"] for rerun in reruns)
    found = Found(
        {
            "runs": f"{world.runs}, finished in {seconds:.0f} s",
            "seconds of a rerun": ", ".join(f"{rerun['seconds']:.2f}" for rerun in reruns),
            "processor seconds": ", ".join(f"{rerun['processor']:.2f}" for rerun in reruns),
            "peak memory": f"{max(rerun['peak'] for rerun in reruns):.0f} MiB",
            "imported of what is heavy": ", ".join(reruns[0]["heavy"]) or "nothing",
        }
    )
    found.require("the sweep could be finished", made.returncode == 0, made.returncode)
    told = f"{world.runs} runs, {world.runs} done already"
    found.require("0 runs", all(told in rerun["said"] and rerun["code"] == 0 for rerun in reruns), reruns[0]["said"][:300])
    found.require(f"at most {SECONDS:g} s", slowest <= SECONDS, slowest)
    found.require("no PyTorch", all("torch" not in rerun["heavy"] for rerun in reruns), reruns[0]["heavy"])
    found.require(f"at most {MEGABYTES:g} MB", max(rerun["peak"] for rerun in reruns) * 1.048576 <= MEGABYTES)
    found.require("no run or entry is touched", _state(place / "outputs") == before)
    return found


FINISH = """
import functools, os, sys
from pathlib import Path
import standin
from testbed import files, record
from testbed.files import digest
from testbed.index import Entry, write
from testbed.launcher.benchmark import Filling
from testbed.launcher.grid import grid
from testbed.launcher.search import SearchPath
from testbed.record import Origin

standin.note = lambda *_: None
os.fsync = lambda _: None
record.commit = functools.cache(record.commit)
versions = dict(record._versions())
record._versions = lambda: iter(versions.items())
record.stale = lambda *_: []
files.restore = lambda *_, **__: None
search = SearchPath("conf")
filling = Filling(grid(["suite=broken", "logger=none", "paths.outputs=outputs"], search), {"--config-dir": "conf"}, search)
outputs = filling.asked.outputs
for request in filling.open:
    names = {"data": request.world, "attack": request.attack, "defence": request.method}
    folder = standin.train(paths={"outputs": str(outputs)}, seed=request.seed, origin=Origin(names=names))
    record = {"stamp": filling.stamp, "record": digest(folder / "result.json")}
    write(outputs, request.key, Entry("done", "", folder.relative_to(outputs).as_posix(), 0.1, 9000, **record))
"""


def _rerun(world: World) -> dict[str, Any]:
    words = world.command("outputs")[2:]
    variables = {**world.variables(), "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words], cwd=world.place, env=variables, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    probe = json.loads(done.stdout.rpartition("probe:")[2] or "{}")
    return {"code": done.returncode, "said": done.stdout + done.stderr, "seconds": seconds, **probe}


def _state(outputs: Path) -> dict[str, tuple[int, int, int]]:
    return dict(_files(outputs / "train")) | dict(_files(outputs / "index"))


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for home, _, names in os.walk(folder):
        for name in names:
            state = os.stat(os.path.join(home, name))
            yield os.path.join(home, name), (state.st_ino, state.st_size, state.st_mtime_ns)
