"""What a signal does to a command: the first ends it in order, a second Ctrl-C at once, and none of them is lost.

Python tells its main thread of a signal, between two instructions of its own. So that neither a computation without an end nor
code that swallows what is raised keeps anybody waiting, a thread is told as well: it ends the process once its time is up.
"""

from __future__ import annotations

import atexit
import os
import select
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self

from testbed.words import Terminated

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGUSR1: 143}
"""Exit codes. SIGUSR1 is what schedulers send ahead of a time limit, SIGHUP comes when a terminal is closed."""
ASKED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
DEADLINE = 9.0
"""Seconds in which a command ends in order, before it is ended."""
APART = 0.1
"""Seconds within which a second Ctrl-C is the first one, passed on by the process above."""
RESUME = "run the same command again to resume"

leave = os._exit  # what `staying` puts in its place is for methods


class Installed:
    """What is done about signals in this process: handlers of ours, those that were there before, and what has come."""

    current: ClassVar[Installed | None] = None

    def __init__(self, numbers: Collection[signal.Signals]) -> None:
        self.first: signal.Signals | None = None
        self.over = False
        # What the caller has ignored stays ignored: nohup, and jobs in the background of a script.
        self.before: Mapping[signal.Signals, Any] = {
            number: found for number in numbers if (found := signal.getsignal(number)) is not signal.SIG_IGN
        }

    def start(self) -> None:
        """Signals raise from now on."""
        Installed.current = self
        for number in self.before:
            signal.signal(number, self._come)

    def stop(self) -> None:
        """Signals do again what they did."""
        Installed.current = None
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def ignore(self) -> None:
        """Signals do nothing any more: while Python takes itself apart they would end it with an exit code of their own."""
        for number in self.before:
            signal.signal(number, signal.SIG_IGN)

    def _come(self, number: int, frame: FrameType | None) -> None:
        """Only the first raises: what is done about it must not be disturbed by the next."""
        if number == signal.SIGHUP:
            _do_without_terminal()
        if self.first is not None:
            return
        self.first = signal.Signals(number)
        if not self.over:
            raise self.error()

    def error(self) -> BaseException:
        """What the first signal raises."""
        return KeyboardInterrupt() if self.first in (None, signal.SIGINT) else Terminated(self.first.name)


class Ending:
    """A command from its first signal to its exit code: `with Ending(...) as ending: ending.code = ...`.

    An interruption that nobody took is told in one line. `leaving`: the process ends after it, so that no later signal may
    change its exit code any more. Outside the main thread signals are none of its business.
    """

    def __init__(self, *, leaving: bool = False) -> None:
        self.code, self.leaving = 1, leaving
        self.installed: Installed | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and Installed.current is None:
            self.installed = Installed(tuple(CODES))
            self._watch(self.installed)
            if self.leaving:
                atexit.register(self.installed.ignore)  # the first that is registered is called last
            self.installed.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        installed = self.installed
        if installed is not None:
            installed.over = True
        ended = isinstance(error, KeyboardInterrupt | Terminated)
        first = installed.first if installed is not None else None
        if ended or (first is not None and self.code and self.code not in CODES.values()):
            # What went wrong after a signal went wrong because of it: an import that was cut off, an error that hid it.
            self.code = CODES[first or (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)]
            with suppress(OSError):  # nobody may be there to read it
                print(f"{how(first or error)}; {RESUME}", file=sys.stderr, flush=True)
        if installed is not None and not self.leaving:
            installed.stop()
            signal.set_wakeup_fd(self._woken_before)
            os.close(self._writing)
            self._thread.join()
        return ended

    def _watch(self, installed: Installed) -> None:
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._woken_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._wait, args=(reading, installed), daemon=True)
        self._thread.start()

    def _wait(self, reading: int, installed: Installed) -> None:
        """Until the other end is closed: end the process at a second Ctrl-C, or when the time after the first signal is up."""
        first, came = None, 0.0
        with selectors.DefaultSelector() as selector, os.fdopen(reading, "rb", buffering=0) as stream:
            selector.register(stream, selectors.EVENT_READ)
            while True:
                left = None if first is None else came + DEADLINE - time.monotonic()
                if not selector.select(left):
                    self._end_at_once(first, installed, f"it did not end within {DEADLINE:g} s")
                told = stream.read(64)
                if not told:
                    return
                for number in filter(installed.before.__contains__, told):
                    if first is None:
                        first, came = signal.Signals(number), time.monotonic()
                    elif number == signal.SIGINT and time.monotonic() > came + APART:
                        self._end_at_once(first, installed, "a second Ctrl-C")

    def _end_at_once(self, first: signal.Signals | None, installed: Installed, why: str) -> None:
        code = self.code if installed.over or first is None else CODES[first]
        with suppress(OSError):  # nobody may be there to read it
            os.write(2, f"ended at once ({why}); {RESUME}\n".encode())
        end_at_once(code)


def end_at_once(code: int) -> None:
    """End this process and all below it; what is being written is written under a name that nobody reads."""
    end_below(os.getpid())
    if "multiprocessing.util" in sys.modules:  # its folder of sockets, which it would remove at a proper end
        from multiprocessing.util import get_temp_dir

        shutil.rmtree(get_temp_dir(), ignore_errors=True)
    leave(code)


def end_below(process: int) -> None:
    """Kill all that is below a process: stopped first, so that none of them starts another meanwhile."""
    stopped: list[int] = []
    while found := [child for child in below(process) if child not in stopped]:
        stopped += found
        _send(found, signal.SIGSTOP)
    _send(stopped, signal.SIGKILL)


def _send(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):  # it has ended by itself; it is somebody else's by now
            os.kill(process, number)


def below(process: int) -> list[int]:
    """The children of a process, theirs, and so on."""
    families: dict[int, list[int]] = {}
    for child, parent in _parents():
        families.setdefault(parent, []).append(child)
    found = list(families.get(process, ()))
    for child in found:  # which grows
        found += families.get(child, ())
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """Every process with its parent."""
    if not Path("/proc/self/stat").exists():
        told = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        for line in told.splitlines():
            child, parent = line.split()
            yield int(child), int(parent)
        return
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):  # it has ended meanwhile
                yield int(entry), int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, SIGHUP and SIGUSR1 raise `Terminated` inside, once, so that a run can be recorded as interrupted.

    Afterwards they do what they did. Under an `Ending` that is so already. Lightning leaves SIGUSR1 to whoever has it, and
    would otherwise requeue a Slurm job by itself.
    """
    if Installed.current is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    installed = Installed(ASKED)
    installed.start()
    try:
        yield
    finally:
        installed.stop()


def stop_if_asked() -> None:
    """Raises what a signal raised, once more: the run that it was raised in may have swallowed it."""
    if Installed.current is not None and Installed.current.first is not None:
        raise Installed.current.error()


def how(end: signal.Signals | BaseException | None) -> str:
    """'interrupted' by Ctrl-C, 'ended by SIGTERM'."""
    if end is signal.SIGINT or isinstance(end, KeyboardInterrupt):
        return "interrupted"
    return f"ended by {end.name if isinstance(end, signal.Signals) else end or 'SIGTERM'}"


def code_of(end: BaseException) -> int:
    """130 or 143."""
    return 143 if isinstance(end, Terminated) else 130


def _do_without_terminal() -> None:
    """What is printed goes nowhere where the terminal is gone: writing to it would fail, and hide how the run has ended."""
    for stream in (1, 2):
        found = select.poll()
        found.register(stream, 0)
        if any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in found.poll(0)):
            to_nobody(stream)


def to_nobody(stream: int) -> None:
    """What is written to this stream goes nowhere from now on, and does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != stream:  # which it is where that was closed
        os.dup2(nowhere, stream)
        os.close(nowhere)


def _forget() -> None:
    """A child that was forked answers for itself: what it is sent is none of its parent's business."""
    if Installed.current is not None:
        signal.set_wakeup_fd(-1)
        Installed.current.stop()


os.register_at_fork(after_in_child=_forget)
