"""The machine: processors, memory, shared memory, the folder of temporary files, and the sandbox for untrusted models."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from testbed.checkup.finding import Finding, reason, size

LEAST_MEMORY, LITTLE_MEMORY = 500e6, 2e9
"""Bytes: a run on digits takes 400 MB."""
LITTLE_SHARED = 64e6
LITTLE_TEMPORARY = 100e6
FEW_FILES = 256
CGROUP = Path("/sys/fs/cgroup")


def machine() -> Iterator[Finding]:
    """What every run needs of a machine."""
    yield from (processors(), memory(), shared_memory(), temporary(), open_files(), sandbox())


def processors() -> Finding:
    """How many processors this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    said = f"{count}{f', of which a limit of the container leaves {quota:g}' if quota and quota < count else ''}"
    if quota and quota < count / 2 and "OMP_NUM_THREADS" not in os.environ:
        return Finding("warning", "processors", said, f"say trainer.threads={max(1, int(quota))}, jobs={max(1, int(quota))}")
    return Finding("ok", "processors", said)


def memory() -> Finding:
    """How much memory is left, by the machine and by the limit of a container."""
    left = [bytes_ for bytes_ in (_available(), _limit()) if bytes_ is not None]
    if not left:
        return Finding("ok", "memory", "this system does not tell how much is left")
    if min(left) < LEAST_MEMORY:
        return Finding("problem", "memory", f"{size(min(left))} left", "end other programs; a run takes 400 MB or more")
    if min(left) < LITTLE_MEMORY:
        return Finding("warning", "memory", f"{size(min(left))} left", "run one at a time (jobs=1)")
    return Finding("ok", "memory", f"{size(min(left))} left")


def shared_memory(place: Path = Path("/dev/shm")) -> Finding:
    """Room for what processes that read images hand to each other."""
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return Finding("ok", "shared memory", f"there is no {place} here")
    if free < LITTLE_SHARED:
        advice = "say data.workers=0, or give the container more (docker run --shm-size=1g)"
        return Finding("warning", "shared memory", f"{size(free)} left in {place}", advice)
    return Finding("ok", "shared memory", f"{size(free)} left in {place}")


def temporary() -> Finding:
    """Whether libraries can put files aside."""
    try:
        place = tempfile.gettempdir()
        with tempfile.TemporaryFile() as probe:
            probe.write(b"x")
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding("problem", "temporary files", f"cannot be written ({reason(error)})", "set TMPDIR to a folder with room")
    if free < LITTLE_TEMPORARY:
        return Finding("warning", "temporary files", f"{size(free)} left in {place}", "set TMPDIR to a folder with room")
    return Finding("ok", "temporary files", f"{size(free)} left in {place}")


def open_files() -> Finding:
    """How many files a process may open: many runs at a time need pipes and logs."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= allowed < FEW_FILES:
        return Finding("warning", "open files", f"{allowed} at most", "ulimit -n 1024")
    return Finding("ok", "open files", "no limit" if allowed < 0 else f"{allowed} at most")


def sandbox() -> Finding:
    """Whether models of strangers can be read in a process that the kernel keeps from everything else."""
    from testbed.untrusted.landlock import Absent, version

    try:
        return Finding("ok", "sandbox", f"Landlock {version()}: untrusted models are read without rights")
    except Absent as why:
        advice = "read them on a Linux of 5.13 or later, or in a container of their own"
        return Finding("warning", "sandbox", f"{why}: untrusted models are read with your rights", advice)


def _available() -> float | None:
    try:
        told = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in told.splitlines() if line.startswith("MemAvailable:")]
    return float(kilobytes[0]) * 1024 if kilobytes else None


def _limit() -> float | None:
    most, used = (_number(CGROUP / name) for name in ("memory.max", "memory.current"))
    return None if most is None or used is None else max(0.0, most - used)


def _quota() -> float | None:
    try:
        allowed, period = (CGROUP / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return None if allowed == "max" else float(allowed) / float(period)


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # 'max'
        return None
