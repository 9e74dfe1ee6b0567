"""Many drivers on one folder of outputs at once: every run is made once, and they help one another."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

from verdict import Found
from world import World, leftovers, waited


def drivers(place: Path, *, count: int = 8, runs: int = 400, jobs: int = 1, pause: float = 0.05) -> Found:
    """`count` drivers fill one grid of `runs` runs together, and one driver fills it alone, for comparison."""
    methods = {"well": {"pause": pause}, "again": {"pause": pause}}
    together, alone = (World(place / name, methods, max(1, runs // 4)) for name in ("together", "alone"))
    began = time.monotonic()
    started = [together.start("outputs", together.place / f"driver{n}.log", f"jobs={jobs}") for n in range(count)]
    codes = [driver.wait() for driver in started]
    seconds = time.monotonic() - began
    left = waited([driver.pid for driver in started])
    began = time.monotonic()
    single = alone.sweep("outputs", f"jobs={jobs}")
    single_seconds = time.monotonic() - began
    journal = together.journal()
    begun, ended = (Counter(line["name"] for line in journal if line["what"] == what) for what in ("begin", "end"))
    told, expected = together.results("outputs"), alone.results("outputs")
    cores = len(os.sched_getaffinity(0))
    found = Found(
        {
            "runs": f"{together.runs}, begun {begun.total()} times",
            f"seconds with {count} drivers": f"{seconds:.1f} ({together.runs / seconds:.1f} runs a second)",
            "seconds with one": f"{single_seconds:.1f} ({together.runs / single_seconds:.1f} runs a second)",
            "throughput": f"{single_seconds / seconds:.2f} times one driver's, on {cores} cores",
        }
    )
    found.require("all drivers end with 0", set(codes) == {0}, codes)
    found.require("the driver alone ends with 0", single.returncode == 0, single.stderr[-300:])
    found.none("runs made twice", [name for name, number in (begun | ended).items() if number != 1])
    found.require("every run is there", len(told) == together.runs, len(told))
    found.none("results other than one driver's", [name for name in expected if told.get(name) != expected[name]])
    found.none("two processes in one run, or torn", [line for line in journal if line["what"] not in ("begin", "end")])
    found.none("lines of a trace", [n for n in range(count) if "Traceback" in (together.place / f"driver{n}.log").read_text()])
    found.none("leftovers in the outputs", leftovers(together.place / "outputs"))
    found.none("processes left", left)
    return found
