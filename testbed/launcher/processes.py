"""Runs side by side on one machine: so many at a time, a process a run, each with its log, threads and time limit.

Pebble's pool survives a killed worker and ends one that takes too long; workers are forked from a process that has PyTorch
imported already, so that a run starts in a tenth of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from testbed.index import Entry, write
from testbed.launcher.task import Task
from testbed.words import Terminated

GRACE = 20.0
"""Seconds between the time limit that a run can record itself and the one that ends its process."""
PRELOADED = [
    *("testbed.launcher.work", "testbed.pipeline.train", "testbed.pipeline.detect", "testbed.pipeline.degrade"),
    *("testbed.training", "testbed.telling", "torchvision", "sklearn.datasets"),
]
"""What workers are forked with, so that none of them spends seconds on importing it."""


def processes(
    tasks: Sequence[Task], after: Mapping[str, Sequence[str]], jobs: int, said: Callable[[Task, Entry], None]
) -> None:
    """Run the tasks, `jobs` at a time, none before those that it comes `after` have ended; `said` is told of each end.

    A worker that is killed, or that outlives its time limit, costs its own run alone.
    """
    waiting, running = list(tasks), dict[Future[Entry], Task]()
    with _pool(jobs, tasks[0].threads) as pool:
        while waiting or running:
            open_keys = {task.request.key for task in (*waiting, *running.values())}
            while len(running) < jobs and (ready := _ready(waiting, after, open_keys)) is not None:
                waiting.remove(ready)
                running[_started(pool, ready)] = ready
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                said(task, _ended(task, future))


def _ready(waiting: Sequence[Task], after: Mapping[str, Sequence[str]], open_keys: set[str]) -> Task | None:
    """The first task that waits for nobody."""
    return next((task for task in waiting if not open_keys & set(after.get(task.request.key, ()))), None)


def _started(pool: ProcessPool, task: Task) -> Future[Entry]:
    from testbed.launcher.work import work

    limit = None if task.timeout is None else task.timeout + GRACE
    return pool.schedule(work, args=(task,), timeout=limit)


def _ended(task: Task, future: Future[Entry]) -> Entry:
    """The entry of a run, also where its process did not live to write one."""
    try:
        return future.result()
    except TimeoutError:
        assert task.timeout is not None
        made = Entry("timeout", f"its process was ended {GRACE:g} s after its {task.timeout:g} s", log=str(task.log))
    except ProcessExpired as end:
        made = Entry("killed", _how(end.exitcode), log=str(task.log))
    except Exception as error:  # of testbed's own, around the run: this run's fault, not the others'
        made = Entry("failed", f"{type(error).__name__}: {error}", log=str(task.log))
    write(Path(task.outputs), task.request.key, made)
    return made


def _how(code: int) -> str:
    if code >= 0:
        return f"its process ended by itself with exit code {code}"
    name = signal.Signals(-code).name
    return f"its process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


@contextmanager
def _pool(jobs: int, threads: int) -> Iterator[ProcessPool]:
    """A pool whose workers are ended when this process is interrupted."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault(
        "PYTORCH_NVML_BASED_CUDA_CHECK", "1"
    )  # looking for a GPU must not start one before workers are forked
    pool = ProcessPool(max_workers=jobs, max_tasks=1, context=context)
    try:
        with _terminable():
            yield pool
        pool.close()
        pool.join()
    except BaseException:
        pool.stop()
        pool.join()
        raise


@contextmanager
def _terminable() -> Iterator[None]:
    def end(*_: Any) -> None:
        raise Terminated("SIGTERM")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
