"""A time limit for a call of somebody else's: what never ends is told like any other fault."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Overlong(BaseException):
    """A call was still at work when its time was up. No Exception, so that a method that catches those is ended too."""


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raises `Overlong` inside once so many seconds have passed, wherever Python code runs then.

    There is no limit where `seconds` is None, nor outside the main thread, which no signal reaches. An alarm that was set
    before goes off when it would have, or at the end where that has passed.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        raise Overlong(f"it was still at work after {seconds:g} s")

    before, started = signal.signal(signal.SIGALRM, end), time.monotonic()
    left = signal.setitimer(signal.ITIMER_REAL, seconds)[0]
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 0.001))
