"""What a worker process does: one run, with its own log, thread budget and time limit, and an entry in the index at its end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from testbed.index import PACKAGE, Entry, watched, write
from testbed.launcher.compose import configuration, plain, register
from testbed.launcher.instantiate import named_by_user
from testbed.launcher.job import Ended, Job, ended
from testbed.launcher.search import SearchPath
from testbed.launcher.task import Task
from testbed.record import facts, read_json
from testbed.words import Refused, TimedOut


def work(task: Task, redirect: bool = True) -> Entry:
    """Run it: the entry that stands in the index from now on."""
    started = time.monotonic()
    sys.path.insert(0, os.getcwd())  # modules of the working directory can be imported, as in every command
    torch.set_num_threads(task.threads)
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with _into(task.log, redirect), _within(task.timeout):
        job, end = _run(task)
    made = _entry(task, job, end, round(time.monotonic() - started, 2))
    write(Path(task.outputs), task.request.key, made)
    return made


def _run(task: Task) -> tuple[Job | None, Ended]:
    search = SearchPath(task.config_dir)
    register(search)
    verb, words = task.request.verb, task.words
    try:
        composed = configuration(verb, words, search)
        command = ("testbed", verb, *words, *(("--config-dir", task.config_dir) if task.config_dir else ()))
        permitted = named_by_user(words, search.users)
        job = Job(verb, plain(composed.config), composed.choices, command, permitted, group=task.group, debug=task.debug)
    except Refused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return None, Ended(refusal.code, None, f"error: {refusal}")
    return job, ended(job)


def _entry(task: Task, job: Job | None, end: Ended, seconds: float) -> Entry:
    outputs = Path(task.outputs).resolve()
    if end.folder is None:
        interrupted = end.code in (130, 143)
        reason = end.message.removeprefix("error: ")
        return Entry("interrupted" if interrupted else "refused", reason, seconds=seconds, log=str(task.log), stamp=task.stamp)
    result, known = read_json(end.folder / "result.json"), facts(end.folder) or {}
    return Entry(
        result["status"],
        result.get("reason") or "",
        end.folder.resolve().relative_to(outputs).as_posix(),
        seconds,
        _size(outputs, [end.folder.resolve(), *(outputs / made for made in known.get("made", []))]),
        str(task.log),
        task.stamp,
        watched([*_foreign(known.get("sources", {})), *_read(job.config if job else {}, outputs)]),
    )


def _foreign(modules: Any) -> Iterator[Path]:
    """Files of modules that are not testbed's own."""
    for name in modules:
        place = getattr(sys.modules.get(name), "__file__", None)
        if place and not Path(place).is_relative_to(PACKAGE):
            yield Path(place)


def _read(node: Any, outputs: Path) -> Iterator[Path]:
    """Files and folders that a configuration names, those of the outputs apart."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(value, str):
            if os.path.exists(value) and not Path(value).resolve().is_relative_to(outputs):
                yield Path(value)
        elif name != "paths":
            yield from _read(value, outputs)


def _size(outputs: Path, places: list[Path]) -> int:
    """Bytes in these files and folders below the outputs."""
    files = (path for place in places if place.is_relative_to(outputs) for path in place.rglob("*"))
    return sum(path.stat().st_size for path in files if path.is_file())


@contextmanager
def _into(log: Path, redirect: bool) -> Iterator[None]:
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
def _within(seconds: float | None) -> Iterator[None]:
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
