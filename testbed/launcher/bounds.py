"""What a run is kept within: its log, its time, and the life of the process that asked for it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed.words import Terminated, TimedOut

LOOK = 2.0
"""Seconds between looks at whether the driver is still there."""
LAST = 10.0
"""Seconds that a run has to record itself as interrupted, once it is told to end."""


def end_with(driver: int) -> None:
    """End this process once that one is gone, killed perhaps: a run that nobody waits for must not hold up others."""

    def watch() -> None:
        while _lives(driver):
            time.sleep(LOOK)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LAST)
        os._exit(143)

    if driver != os.getpid():
        threading.Thread(target=watch, daemon=True).start()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so it is there
        return True
    return True


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


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises `Terminated` inside, so that the run can be recorded as interrupted; afterwards it does what it did."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        raise Terminated("SIGTERM")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
