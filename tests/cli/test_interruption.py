"""What a signal does to a command, whatever the command does about it: in programs of a second, without PyTorch."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HEAD = """
import os, signal, sys, time
from pathlib import Path
# A job in the background ignores Ctrl-C, and this may be one.
signal.signal(signal.SIGINT, signal.SIG_IGN if "nohup" in sys.argv else signal.default_int_handler)
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
if "terminal" in sys.argv:
    os.open(os.ttyname(0), os.O_RDWR)  # so that it is this session's
from testbed.launcher import interruption
from testbed.launcher.bounds import staying
from testbed.launcher.interruption import Ending, stop_if_asked
from testbed.words import Terminated

def ready():
    Path("ready").touch()

def wait():
    ready()
    time.sleep(30)
"""
BODIES = {
    "waits": "wait()",
    "swallows": """
interruption.DEADLINE = 1.0
try:
    wait()
except BaseException:
    print("swallowed", flush=True)
time.sleep(30)
""",
    "computes": """
import hashlib
interruption.DEADLINE = 1.0
ready()
hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)  # minutes, in which the main thread comes to no instruction of Python's
""",
    "ends slowly": """
try:
    wait()
finally:
    time.sleep(1.0)
""",
    "goes on": """
try:
    wait()
except BaseException:
    pass
stop_if_asked()
""",
    "errs": """
try:
    wait()
except BaseException:
    raise ImportError("half of it is there") from None
""",
    "has children": """
import multiprocessing, subprocess
context = multiprocessing.get_context("forkserver")
context.Process(target=time.sleep, args=(60,)).start()
subprocess.Popen(["sleep", "60"])
try:
    wait()
finally:
    time.sleep(30)
""",
    "leaves": "os._exit(0)",
    "leaves in a thread": """
import threading
threading.Thread(target=os._exit, args=(0,)).start()
time.sleep(30)
""",
    "forks": """
child = os.fork()
if not child:
    os._exit(7)
ending.code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
""",
    "forks and is told": """
child = os.fork()
if not child:
    wait()
Path("child").write_text(str(child))
ending.code = -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
""",
}
Start = Callable[..., subprocess.Popen[str]]


def program(body: str) -> str:
    """A command that does this, and what Python does at the end of one."""
    inside = "\n".join(f"        {line}" for line in BODIES[body].strip().splitlines())
    told = "ending.code = 1; print(f'error: {error}', file=sys.stderr)"
    return (
        f"{HEAD}\nwith Ending(leaving=True) as ending, staying():\n    ending.code = 0\n    try:\n{inside}\n"
        f"    except (Exception, SystemExit) as error:\n        {told}\nsys.exit(ending.code)\n"
    )


@pytest.fixture
def start(here: Path, environment: dict[str, str]) -> Iterator[Start]:
    """Starts a program in a session of its own; whatever is left of it is ended."""
    started: list[subprocess.Popen[str]] = []

    def begin(body: str, *words: str, **more: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True, "text": True} | more
        command = [sys.executable, "-c", program(body), *words]
        started.append(subprocess.Popen(command, cwd=here, env=environment, **pipes))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for(seen: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What this says as soon as it says something; fails where it never does."""
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def session(process: subprocess.Popen[str]) -> list[str]:
    """The commands of the processes that are left of its session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            told = (entry / "stat").read_text() if entry.name.isdecimal() else ""
        except OSError:  # it has ended meanwhile
            continue
        state, _, _, owner = told.rpartition(")")[2].split()[:4] if told else ("Z", "", "", "0")
        if int(owner) == process.pid and state not in "ZX":
            found.append(told.partition("(")[2])
    return found


CASES = [
    *(("waits", [sent], code) for sent, code in (("INT", 130), ("TERM", 143), ("HUP", 143), ("USR1", 143))),
    *(("errs", [sent], code) for sent, code in (("INT", 130), ("TERM", 143))),
    ("goes on", ["TERM"], 143),
    ("swallows", ["INT"], 130),
    ("swallows", ["USR1"], 143),
    ("computes", ["TERM"], 143),
    ("computes", ["INT"], 130),
    ("ends slowly", ["TERM", "TERM"], 143),
    ("ends slowly", ["TERM", "HUP"], 143),
]


@pytest.mark.parametrize(
    ("body", "sent", "code"), CASES, ids=lambda value: "-".join(value) if isinstance(value, list) else None
)
def test_a_signal_ends_a_command_with_its_code_whatever_is_done_about_it(
    body: str, sent: list[str], code: int, start: Start
) -> None:
    process = start(body)
    wait_for(Path("ready").exists)
    for name in sent:
        process.send_signal(signal.Signals[f"SIG{name}"])
        time.sleep(0.2 if len(sent) > 1 else 0)
    begun = time.monotonic()
    _, said = process.communicate(timeout=20)
    assert process.returncode == code, said
    assert time.monotonic() < begun + 3
    assert said.count("run the same command again to resume") == 1 and "Traceback" not in said, said


def test_a_second_ctrl_c_ends_everything_within_a_second(start: Start) -> None:
    process = start("has children")
    wait_for(Path("ready").exists)
    assert len(session(process)) >= 5  # the server of processes, the tracker of resources
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and "a second Ctrl-C" in said
    wait_for(lambda: not session(process), 1)
    assert time.monotonic() < begun + 1


def test_one_key_pressed_and_passed_on_is_one(start: Start) -> None:
    process = start("ends slowly")
    wait_for(Path("ready").exists)
    begun = time.monotonic()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.001)  # or the kernel makes one of them
    process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() > begun + 0.9


def test_a_closed_terminal_hides_nothing(start: Start) -> None:
    ours, theirs = pty.openpty()
    process = start("waits", "terminal", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    wait_for(Path("ready").exists)
    os.close(ours)  # the kernel sends SIGHUP, and what is written from now on fails
    assert process.wait(20) == 143


def test_what_was_ignored_stays_ignored(start: Start) -> None:
    process = start("waits", "nohup")
    wait_for(Path("ready").exists)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


@pytest.mark.parametrize(("body", "code"), [("leaves", 1), ("leaves in a thread", 1), ("forks", 7)])
def test_nothing_that_leaves_claims_success(body: str, code: int, start: Start) -> None:
    process = start(body)
    process.communicate(timeout=20)
    assert process.returncode == code


def test_what_a_forked_child_is_sent_is_its_own(start: Start) -> None:
    process = start("forks and is told")
    child = int(wait_for(lambda: Path("child").exists() and Path("child").read_text()))
    wait_for(Path("ready").exists)
    os.kill(child, signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == signal.SIGTERM
