"""What a worker process does: one run, with its own log, thread budget and time limit, and an entry in the index at its end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testbed.files import digest, read_json
from testbed.index import PACKAGE, Entry, watched, write
from testbed.launcher.bounds import end_with, logged, within
from testbed.launcher.compose import configuration, plain, register
from testbed.launcher.instantiate import named_by_user
from testbed.launcher.job import Ended, Job, ended
from testbed.launcher.search import SearchPath
from testbed.launcher.task import Task
from testbed.launcher.turns import finished, tried, turn
from testbed.record import facts
from testbed.source import files_of
from testbed.words import Refused


def work(task: Task, redirect: bool = True) -> Entry:
    """Run it, unless another driver has, which is waited for: the entry that stands in the index from now on."""
    end_with(task.driver)
    with turn(task):
        return finished(task) or _made(task, redirect)


def work_if_free(task: Task) -> Entry | None:
    """The same; None at once where another driver is making it, whose time is none of this process's."""
    end_with(task.driver)
    with tried(task) as mine:
        return (finished(task) or _made(task, redirect=True)) if mine else None


def _made(task: Task, redirect: bool) -> Entry:
    started = time.monotonic()
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # modules of the working directory can be imported, as in every command
    if "torch" in sys.modules:  # a worker is forked with it, unless its pipeline does without
        sys.modules["torch"].set_num_threads(task.threads)
    task.log.parent.mkdir(parents=True, exist_ok=True)
    seen: dict[str, str] = {}
    with logged(task.log, redirect), within(task.timeout):
        try:
            job = _job(task)
            seen = watched(_read(job.config, Path(task.outputs).resolve()))  # before the run: an edit during it must be noticed
            end = ended(job)
        except Refused as refusal:
            print(f"error: {refusal}", file=sys.stderr)
            end = Ended(refusal.code, None, f"error: {refusal}", "refused")
    made = _entry(task, end, round(time.monotonic() - started, 2), seen)
    write(Path(task.outputs), task.request.key, made)
    return made


def _job(task: Task) -> Job:
    """Raises `Refused` where it cannot be composed."""
    search = SearchPath(task.config_dir)
    register(search)
    verb, words = task.request.verb, task.words
    composed = configuration(verb, words, search)
    command = ("testbed", verb, *words, *(("--config-dir", task.config_dir) if task.config_dir else ()))
    permitted = named_by_user(words, search.users)
    return Job(verb, plain(composed.config), composed.choices, command, permitted, group=task.group, debug=task.debug)


def _entry(task: Task, end: Ended, seconds: float, seen: dict[str, str]) -> Entry:
    outputs, more = Path(task.outputs).resolve(), {"log": str(task.log), "code": end.code}
    if end.folder is None:
        return Entry(end.status, end.message.removeprefix("error: "), seconds=seconds, **more)  # type: ignore[arg-type]
    result, known = read_json(end.folder / "result.json"), facts(end.folder) or {}
    folder = end.folder.resolve()
    return Entry(
        result["status"],
        result.get("reason") or "",
        folder.relative_to(outputs).as_posix(),
        seconds,
        _size(outputs, [folder, *(outputs / made for made in known.get("made", []))]),
        stamp=task.stamp,
        watched=seen,
        record=digest(folder / "result.json"),
        **more,  # type: ignore[arg-type]
    )


def _read(node: Any, outputs: Path) -> Iterator[Path]:
    """Files and folders that a configuration names, and other people's modules with their neighbours; none of the outputs."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if name == "_target_":
            if not str(value).startswith("testbed."):  # testbed's own has none of others', and to find it would import PyTorch
                yield from (path for path in files_of(str(value).rpartition(".")[0]) if not path.is_relative_to(PACKAGE))
        elif isinstance(value, str):
            place = os.path.expanduser(value)
            if os.path.exists(place) and not Path(place).resolve().is_relative_to(outputs):
                yield Path(place)
        elif name != "paths":
            yield from _read(value, outputs)


def _size(outputs: Path, places: list[Path]) -> int:
    """Bytes in these files and folders below the outputs."""
    files = (path for place in places if place.is_relative_to(outputs) for path in place.rglob("*"))
    return sum(path.stat().st_size for path in files if path.is_file())
