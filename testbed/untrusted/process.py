"""Starts the reading process, waits for what it says, and ends it and all that it may have started."""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from testbed.untrusted import limits
from testbed.untrusted.plain import printable
from testbed.untrusted.private import Source

ENVIRONMENT = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""What the process inherits: no keys, no tokens, no proxies, no home."""
SETTINGS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    **dict.fromkeys(("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "HF_HUB_OFFLINE", "PYTHONDONTWRITEBYTECODE"), "1"),
    "CUDA_VISIBLE_DEVICES": "",
    "HOME": "/nonexistent",
}
LIBRARIES = ("torch", "numpy")
START = "import sys; sys.path[len(sys.path):] = sys.argv[1:]; from testbed.untrusted.child import main; main()"


class Order(NamedTuple):
    """How many bytes and seconds reading may take."""

    memory: int
    seconds: float


class Overdue(Exception):
    """The process was ended because it took too long."""


class Crashed(Exception):
    """The process ended without an answer: how."""


def answer(order: Order, source: Source, result: IO[bytes], *, with_torch: bool) -> tuple[dict[str, Any], str]:
    """What the process says of the file, and what it says that it gave up; the tensors are in `result`.

    Raises:
        Overdue: it did not answer in time.
        Crashed: it ended without an answer, or said too much.
        OSError: it could not be started at all.
    """
    files = [result.fileno(), *(part.file.fileno() for part in source.parts)]
    asked = {
        **{"tensors": files[0], "file": files[1], "configuration": files[2] if source.configuration else None},
        **{"size": source.copy.size, "suffix": source.suffix, "torch": with_torch},
        **{"memory": order.memory, "seconds": order.seconds, "result": 4 * source.copy.size + limits.HEADER},
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", START, *_folders()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**{name: os.environ[name] for name in ENVIRONMENT if name in os.environ}, **SETTINGS},
        cwd="/",
        pass_fds=files,
        start_new_session=True,
    )
    conversation = _Conversation(process)
    try:
        conversation.send(asked)
        first = conversation.line(limits.START)
        if "inside" in first:
            conversation.inside = int(first["inside"])
            first = conversation.line(limits.START)
        return conversation.line(order.seconds), printable(str(first.get("sandbox")), 300)
    finally:
        conversation.end()


class _Conversation:
    """Lines of JSON to and from the process, each within its time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.inside, self.rest = process, 0, b""

    def send(self, words: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(words).encode("utf-8") + b"\n")
            self.process.stdin.close()
        except BrokenPipeError:  # it ended at once: the line that is waited for next says how
            pass

    def line(self, seconds: float) -> dict[str, Any]:
        """The next line.

        Raises:
            Overdue, Crashed: there is none.
        """
        until = time.monotonic() + seconds
        source = self.process.stdout
        assert source is not None
        with selectors.DefaultSelector() as selector:
            selector.register(source, selectors.EVENT_READ)
            while b"\n" not in self.rest:
                left = until - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise Overdue("the process that reads it was ended")
                block = os.read(source.fileno(), limits.MIB)
                self.rest += block
                if not block:
                    raise Crashed(f"the process that reads it ended {self._how()}")
                if len(self.rest) > limits.REPORT:
                    raise Crashed(f"the process that reads it said more than {limits.REPORT} bytes")
        text, _, self.rest = self.rest.partition(b"\n")
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Crashed("the process that reads it said what is no JSON") from error
        if not isinstance(found, dict):
            raise Crashed("the process that reads it said what is no answer")
        return found

    def _how(self) -> str:
        code = self.process.wait(10)
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        said = (self.process.stderr.read(64 * limits.KIB) or b"").decode("utf-8", "replace").strip().splitlines()
        last = f" ({printable(said[-1], 200)})" if said else ""
        # A process inside another is reported by the low byte of its code: 256 less the signal.
        number = -code if code < 0 else 256 - code if code > 128 else 0
        known = number in {int(name) for name in signal.Signals}
        return f"by {signal.Signals(number).name if known else f'code {code}'}{last}"

    def end(self) -> None:
        """End it, the process inside first: with that one, all that it may have started end too."""
        try:
            self.process.wait(0.0 if sys.exc_info()[0] else 2.0)
        except subprocess.TimeoutExpired:
            for number, kill in ((self.inside, os.kill), (self.process.pid, os.killpg), (self.process.pid, os.kill)):
                with suppress(ProcessLookupError):  # ended meanwhile: what was wanted
                    if number:
                        kill(number, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not stream.closed:
                stream.close()


def _folders() -> list[str]:
    """Where the process finds this package and the libraries, after its own standard library: never the working directory."""
    own = Path(__file__).resolve().parents[2]
    specs = [importlib.util.find_spec(name) for name in LIBRARIES]
    found = [own, *(Path(spec.origin).resolve().parents[1] for spec in specs if spec is not None and spec.origin)]
    return [str(folder) for folder in dict.fromkeys(found)]
