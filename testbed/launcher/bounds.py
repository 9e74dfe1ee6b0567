"""What a run is kept within: its log, its time, and the life of the process that asked for it."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from testbed.files import lives
from testbed.launcher.interruption import leave
from testbed.words import TimedOut

LAST = 10.0
"""Seconds that a run has to record itself as interrupted, once it is told to end."""
LOOK = 2.0
"""Seconds between looks at whether the driver is still there, where it is no parent."""


def end_with(driver: int) -> None:
    """End this process once that one is gone, killed perhaps: a run that nobody waits for must not hold up others.

    A parent is known to be gone at once, as its end of a pipe is closed. (Linux would send a signal at the death of the parent,
    PR_SET_PDEATHSIG, but the parent of a worker is the server that it was forked from, and macOS has no such thing.)
    """
    if driver == os.getpid():
        return
    from multiprocessing import parent_process

    parent = parent_process()

    def watch() -> None:
        if parent is not None and parent.pid == driver:
            parent.join()
        else:
            while lives(driver):
                time.sleep(LOOK)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LAST)
        leave(143)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def staying() -> Iterator[None]:
    """Inside, a method that leaves by `os._exit` fails: it would end all runs of this process, with an exit code of its own.

    A child that was forked inside still leaves as it likes; another thread takes the process with it, but claims no success.
    """
    home, before = os.getpid(), os._exit

    def stay(status: int) -> NoReturn:
        if os.getpid() != home:
            before(status)
        if threading.current_thread() is not threading.main_thread():
            before(status or 1)
        raise SystemExit(status)

    os._exit = stay
    try:
        yield
    finally:
        os._exit = before


@contextmanager
def logged(log: Path, redirect: bool) -> Iterator[None]:
    """All that this process and its children print goes into a file."""
    if not redirect:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    place = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(place, 1)
    os.dup2(place, 2)
    faulthandler.enable()  # of a fault in somebody's C code the log tells where it was
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(place)


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Raises `TimedOut` inside once so many seconds have passed, wherever Python code runs then."""
    if seconds is None:
        yield
        return

    def end(*_: Any) -> None:
        raise TimedOut(f"it took longer than {seconds:g} s (timeout={seconds:g})")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
