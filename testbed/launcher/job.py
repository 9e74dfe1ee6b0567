"""One run: from a composed configuration to a finished run folder, and from whatever happens to an exit code."""

from __future__ import annotations

import errno
import sys
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from testbed.launcher.interruption import RESUME, code_of, how, terminable, to_nobody
from testbed.shortage import DISK, out_of_memory, told
from testbed.words import Faulty, Refused, Terminated, TimedOut

PIPELINES = {
    "train": "testbed.pipeline.train:train",
    "detect": "testbed.pipeline.detect:detect",
    "degrade": "testbed.pipeline.degrade:degrade",
    "evaluate": "testbed.pipeline.evaluate:evaluate",
    "picture": "testbed.pipeline.picture:picture",
    "report": "testbed.pipeline.report:report",
    "check": "testbed.pipeline.check:check",
    "sync": "testbed.pipeline.sync:sync",
    "tune": "testbed.pipeline.tune:tune",
    "export": "testbed.pipeline.export:export",
    "audit": "testbed.pipeline.audit:audit",
}
DENIED = (errno.EACCES, *DISK)
CODES = {"done": 0, "skipped": 0, "failed": 1, "diverged": 1, "timeout": 1, "interrupted": 130}


@dataclass(frozen=True)
class Job:
    """A verb with its resolved configuration, the options chosen, and what may be instantiated."""

    verb: str
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    command: Sequence[str] = ()
    permitted: Collection[str] = ()
    group: str = ""
    debug: bool = False


class Ended(NamedTuple):
    """How a run ended: its exit code, its folder if it left one, and if not one line that says why, and a status."""

    code: int
    folder: Path | None = None
    message: str = ""
    status: str = ""


def run(job: Job) -> int:
    """Run it and say how it went: the exit code. An error is one line, with its trace only if `debug`."""
    return ended(job).code


def ended(job: Job) -> Ended:
    """The same, with the run folder."""
    try:
        with terminable():
            return _run(job)
    except (KeyboardInterrupt, Terminated) as end:
        return _said(f"{how(end)}; {RESUME}", code_of(end), "interrupted")
    except TimedOut as error:  # before there was a run to record it in
        return _said(f"error: {error}", 1, "timeout")
    except BaseException as error:
        if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):  # | head had enough
            to_nobody(sys.stdout.fileno())  # so that the flush at exit does not fail
            return Ended(1)
        if job.debug:
            traceback.print_exc()
        message, code = explained(error, job.config)
        return _said(f"error: {message}", code, "failed" if code == 1 else "refused")


def _said(message: str, code: int, status: str) -> Ended:
    print(message, file=sys.stderr)
    return Ended(code, None, message, status)


def explained(error: BaseException, config: Mapping[str, Any] | None = None) -> tuple[str, int]:
    """One line and an exit code for an error; `config` is that of the run which it ended."""
    from testbed.error import Invalid

    if isinstance(error, Refused):
        return str(error), error.code
    if out_of_memory(error):
        return told(error, config or {}), 4
    if isinstance(error, Faulty):
        return f"{error} (--debug shows the trace)", 1
    if isinstance(error, Invalid):
        return " ".join(str(error).splitlines()), 2
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # a value that was to be the name of a file
        return f"{said[:120]}...: give the name of a file", 2
    if isinstance(error, OSError) and error.errno in DENIED:
        return said, 4
    return f"{said} (--debug shows the trace)", 1


def _run(job: Job) -> Ended:
    from testbed.launcher.contained import contain
    from testbed.launcher.instantiate import checked, instantiate
    from testbed.launcher.suspicion import told_apart
    from testbed.record import Origin
    from testbed.tidy import tidy

    outputs = str((job.config.get("paths") or {}).get("outputs") or "")
    require_writable(outputs)
    contain(outputs)
    if not job.group or job.group.startswith("sweep-"):  # for the runs of a grid, its driver has
        tidy(Path(outputs))
    module, _, name = PIPELINES[job.verb].partition(":")
    pipeline = getattr(__import__(module, fromlist=[name]), name)
    wanted = pipeline.__code__.co_varnames[: pipeline.__code__.co_argcount + pipeline.__code__.co_kwonlyargcount]
    config = told_apart(job.config, job.permitted) if job.verb == "audit" else job.config
    parts = {key: instantiate(node, key, job.permitted) for key, node in config.items() if key in wanted}
    arguments = checked(pipeline, parts, "")
    if "origin" in wanted:
        arguments["origin"] = Origin(job.config, tuple(job.command), job.choices, job.group)
    started = time.monotonic()
    result = pipeline(**arguments)
    if isinstance(result, int):
        return Ended(result)
    return Ended(_told(result, time.monotonic() - started, in_sweep=bool(job.group)), result)


def require_writable(outputs: str) -> None:
    """Raises `Refused` where nothing can be written below this folder, before an hour is spent on finding out."""
    place = Path(outputs).absolute()
    try:
        there = next(folder for folder in (place, *place.parents) if folder.exists() or folder.is_symlink())
    except (OSError, ValueError) as error:
        raise Refused(f"paths.outputs={outputs}: no folder can have this name ({error})") from error
    if not outputs:
        raise Refused("paths.outputs: must be given; say paths.outputs=DIR")
    try:  # permissions do not tell: some file systems refuse whoever asks
        with TemporaryFile(dir=there, prefix=".testbed-"):  # without a name, so that a crash leaves nothing
            pass
    except OSError as error:
        advice = "say paths.outputs= to put results elsewhere"
        raise Refused(f"paths.outputs={outputs}: cannot write into {there} ({error.strerror}); {advice}", 4) from error


def _told(folder: Any, seconds: float, *, in_sweep: bool) -> int:
    """Print what a run measured and, last, where it is."""
    from testbed.files import read_json
    from testbed.table import print_line, print_run
    from testbed.telling import print_degradation

    result = read_json(folder / "result.json")
    if (folder / "audit.json").is_file():
        from testbed.finding import print_audit, print_conclusion

        (print_conclusion if in_sweep else print_audit)(folder, seconds)
    elif in_sweep:
        print_line(result, seconds)
    elif (folder / "trajectory.csv").is_file():
        print_degradation(folder, result, seconds)
    else:
        print_run(folder, result, seconds)
    print(folder, flush=True)
    return CODES[result["status"]]
