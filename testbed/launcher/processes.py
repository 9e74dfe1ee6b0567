"""Runs side by side on one machine: so many at a time, a process a run, each with its log, threads and time limit.

Pebble tells how a worker ended and ends one that takes too long; workers are forked from a process that has PyTorch imported
already, so that a run starts in a tenth of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, concurrent

from testbed.index import Entry, write
from testbed.launcher.interruption import end_below, stop_if_asked, terminable
from testbed.launcher.job import explained
from testbed.launcher.task import Task
from testbed.launcher.turns import AGAIN, Queue, finished, tried

GRACE = 20.0
"""Seconds between the time limit that a run can record itself and the one that ends its process."""
PATIENCE = 7.0
"""Seconds that all workers together have to record their runs as interrupted: less than their driver has to end in order."""
DEAF = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
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
    queue, running = Queue(list(tasks), after), dict[Future[Entry | None], Task]()
    with ending():
        context = prepared(tasks[0].threads)
        while queue.waiting or running:
            while len(running) < jobs and (task := queue.next(list(running.values()))) is not None:
                if made := finished(task):
                    said(task, made)  # by another driver, since this one looked first
                else:
                    running[_started(task, context)] = task
            if not running and queue.waiting:
                time.sleep(AGAIN)
            for future in wait(running, timeout=AGAIN if queue.held else None, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                if (made := _ended(task, future)) is None:
                    queue.held_by_another(task)
                else:
                    said(task, made)
            stop_if_asked()


def _work(task: Task) -> Entry | None:
    from testbed.launcher.work import work_if_free  # in the worker: the driver does without PyTorch

    return work_if_free(task)


def _started(task: Task, context: Any) -> Future[Entry | None]:
    limit = None if task.timeout is None else task.timeout + GRACE
    # No daemon: data that are read by workers need children of their own.
    # Pebble 5.2 documents its context as `mp_context` and reads it as `context`.
    chosen: Any = {"context": context, "mp_context": context}
    return concurrent.process(daemon=False, timeout=limit, **chosen)(_work)(task)


def _ended(task: Task, future: Future[Entry | None]) -> Entry | None:
    """The entry of a run, also where its process did not live to write one; None where another driver is making it."""
    try:
        return future.result()
    except TimeoutError as error:
        limit = task.timeout
        why = f"its process was ended {GRACE:g} s after its {limit:g} s" if limit is not None else f"TimeoutError: {error}"
        made = Entry("failed" if limit is None else "timeout", why, log=str(task.log), code=1)
    except ProcessExpired as end:
        made = Entry("killed", _how(end.exitcode or 0), log=str(task.log), code=1)
    except Exception as error:  # of testbed's own, around the run: this run's fault, not the others'
        message, code = explained(error)
        made = Entry("failed", message, log=str(task.log), code=code)
    with tried(task) as mine:  # what a process that is gone had of it went with it
        if not mine:
            return None
        if (other := finished(task)) is not None:  # made since, by another driver
            return other
        write(Path(task.outputs), task.request.key, made)
    return made


def _how(code: int) -> str:
    if code >= 0:
        return f"its process ended by itself with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal, which Python has no name for
        name = signal.strsignal(-code) or f"signal {-code}"
    return f"its process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def prepared(threads: int) -> Any:
    """The way in which workers are started, each with so many threads; what they are forked from is there afterwards."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # A worker that was killed could not give back what joblib opened at import; that is no news for whoever reads the runs.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # to look for a GPU must not start it before the fork
    _start_server()
    return context


def _start_server() -> None:
    """Start what forks the workers, deaf to what a terminal or a scheduler sends to all processes of a command at once.

    The driver hears it and passes it on. A server that was still importing, or a worker as it begins, would end with a trace.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DEAF)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, DEAF)  # again: that made Ctrl-C heard
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ending() -> Iterator[None]:
    """When this process is interrupted inside, the workers are told to end, which a run records, and then made to."""
    try:
        with terminable():
            yield
    except BaseException:
        workers = multiprocessing.active_children()
        for worker in workers:
            worker.terminate()
        until, left = time.monotonic() + PATIENCE, {worker.sentinel: worker for worker in workers}
        while left and (seconds := until - time.monotonic()) > 0:
            for sentinel in wait_for(list(left), seconds):
                del left[sentinel]  # type: ignore[arg-type]
        _end_server()
        raise


def _end_server() -> None:
    """End what workers are forked from, and what is left below it: workers that did not end, or were only just being started.

    It would end by itself, but not while it is still importing.
    """
    server = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if server is None:
        return
    with suppress(ProcessLookupError):  # somebody ended it
        os.kill(server, signal.SIGSTOP)  # or it would go on forking
        end_below(server)
        os.kill(server, signal.SIGKILL)
