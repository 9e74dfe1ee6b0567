"""A study: the trials of a search, in a journal that survives whatever ends the process in the middle of one.

Optuna's heartbeats and its retrying exist for databases only. Here one process at a time works on a study, under a lock that
the kernel lets go of when that process dies; so a trial that still runs when a study is opened was interrupted. It is closed
as such, counts for nothing, and is asked for again: each place in the budget has a seed of its own, and so, with the same
trials before it, the same parameters.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from testbed.launcher.space import Dimension, listed
from testbed.words import Refused

JOURNAL = "journal.log"
INTERRUPTED = "interrupted"
SCORED = ("done", "infeasible")
"""How a trial ends that has a value; an infeasible one keeps it, and is never the best."""


@dataclass(frozen=True)
class Verdict:
    """How a trial ended: `value` is None unless it was scored, and `excess` is how far it went over the declared limit, if any.

    `counts` are the smallest n behind the value: 'success' and 'clean' rows a run. `runs` are the folders of its runs;
    `contents` tell, by label, the rows that each of them worked on.
    """

    status: str
    reason: str = ""
    value: float | None = None
    excess: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    runs: Sequence[str] = ()
    contents: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Point:
    """A finished trial: its place in the budget, counted from 0, its parameters as words, and how it ended."""

    place: int
    words: tuple[str, ...]
    verdict: Verdict


class Study:
    """An open study; `opened` makes one."""

    def __init__(self, study: optuna.Study, dimensions: Mapping[str, Dimension], declared: Mapping[str, Any]) -> None:
        self._study, self._dimensions = study, dimensions
        self.budget, self._seed = int(declared["trials"]), int(declared["seed"])
        self.points = listed(dimensions, self.budget)
        self.total = self.budget if self.points is None else len(self.points)
        self._distributions = {key: found.distribution() for key, found in dimensions.items()}

    def require_same(self, declared: Mapping[str, Any]) -> None:
        """Raises `Refused` where it was begun with other declarations; a new one is given these."""
        _require_same(self._study, declared)

    @property
    def declared(self) -> dict[str, Any]:
        """What it was begun with, and the `contents` of the data that its trials met, by the label of the run."""
        met = {label: digest for point in self.finished() for label, digest in point.verdict.contents.items()}
        return {**self._study.user_attrs["declared"], "contents": met}

    def finished(self) -> list[Point]:
        """The trials that count, in order."""
        trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]
        known = [trial for trial in trials if trial.user_attrs.get("verdict", {}).get("status", INTERRUPTED) != INTERRUPTED]
        return [
            Point(place, self._words(trial.params), Verdict(**trial.user_attrs["verdict"])) for place, trial in enumerate(known)
        ]

    def ask(self) -> tuple[optuna.Trial, tuple[str, ...]]:
        """The next trial, and its parameters as words."""
        place = len(self.finished())
        self._study.sampler = self._sampler(place)
        trial = self._study.ask(self._distributions)
        return trial, self._words(trial.params)

    def tell(self, trial: optuna.Trial, verdict: Verdict) -> None:
        """Close a trial: only one that was scored has a value, by which the search goes on."""
        if verdict.excess is not None:
            trial.set_constraint("loss", verdict.excess)
        trial.set_user_attr("verdict", {**vars(verdict), "runs": list(verdict.runs)})
        self._close(trial.number, verdict)

    def close_interrupted(self) -> int:
        """Close the trials that nobody runs any more: how many of them had not been told yet how they ended."""
        left = [trial for trial in self._study.get_trials(deepcopy=False) if not trial.state.is_finished()]
        told = [trial for trial in left if "verdict" in trial.user_attrs]  # ended between the two entries of `tell`
        for trial in left:
            self._close(trial.number, Verdict(**trial.user_attrs.get("verdict", {"status": INTERRUPTED})))
        return len(left) - len(told)

    def _close(self, number: int, verdict: Verdict) -> None:
        if verdict.status in SCORED:
            self._study.tell(number, verdict.value)
        else:
            self._study.tell(number, state=TrialState.FAIL)

    def best(self) -> Point | None:
        """The best of those that keep within the limit, the earliest of equals; None where there is none."""
        better = max if self._study.direction is optuna.study.StudyDirection.MAXIMIZE else min
        found = [point for point in self.finished() if point.verdict.status == "done"]
        return better(found, key=lambda point: point.verdict.value or 0.0) if found else None

    def _words(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(found.word(params[key]) for key, found in self._dimensions.items() if key in params)

    def _sampler(self, place: int) -> BaseSampler:
        """A seed of its own for each place, so that an interruption changes nothing of what comes after it."""
        if self.points is not None:
            return Listed(self.points[place])
        whole = hashlib.sha256(f"{self._seed}:tune:{place}".encode()).digest()
        return TPESampler(seed=int.from_bytes(whole[:4], "big"), constant_liar=False)


class Listed(BaseSampler):
    """The point of a grid whose turn it is. Optuna's own counts an interrupted trial as one that visited its point."""

    def __init__(self, point: Mapping[str, Any]) -> None:
        self.point = point

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self.point[param_name]


class Unlocked:
    """The lock of a journal that is locked already, with the whole study: Optuna's own outlives a killed process by 30 s."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


@contextmanager
def opened(folder: Path, dimensions: Mapping[str, Dimension], declared: Mapping[str, Any], direction: str) -> Iterator[Study]:
    """The study in this folder, begun now or gone on with, for this process alone.

    Raises:
        Refused: it was begun with other declarations, or another process works on it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    held = FileLock(folder / ".lock")
    try:
        held.acquire(timeout=0)
    except TimeoutError as error:
        raise Refused(f"study={folder.name}: another process works on it; wait for it, or say study=NAME", 4) from error
    try:
        mend(folder / JOURNAL)
        backend = JournalFileBackend(str(folder / JOURNAL), lock_obj=Unlocked())  # type: ignore[arg-type]
        study = optuna.create_study(
            storage=JournalStorage(backend), study_name=folder.name, direction=direction, load_if_exists=True
        )
        _require_same(study, declared)
        yield Study(study, dimensions, declared)
    finally:
        held.release()


def begun(folder: Path) -> bool:
    """Whether there is a study in this folder."""
    return (folder / JOURNAL).is_file()


def mend(journal: Path) -> None:
    """Cut off the last line of a journal where a process was ended in the middle of writing it: nothing was told by it yet."""
    if not journal.is_file():
        return
    told = journal.read_bytes()
    whole = told.rfind(b"\n") + 1
    if whole < len(told):
        with journal.open("r+b") as stream:
            stream.truncate(whole)
            os.fsync(stream.fileno())


def _require_same(study: optuna.Study, declared: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(declared))
    before = study.user_attrs.get("declared")
    if before is None:
        study.set_user_attr("declared", wanted)
        return
    for key in (*wanted, *before):
        if before.get(key) != wanted.get(key):
            then, now = (_shown(part) for part in _apart(before.get(key), wanted.get(key)))
            begun_with = f"study={study.study_name}: it was begun with {key} {then}, not {now}"
            raise Refused(f"{begun_with}; say study=NAME to begin another")


def _apart(then: Any, now: Any) -> tuple[Any, Any]:
    """Of two mappings, only what is not the same in both."""
    if not (isinstance(then, Mapping) and isinstance(now, Mapping)):
        return then, now
    same = {key for key in {*then} & {*now} if then[key] == now[key]}
    before, after = ({key: value for key, value in told.items() if key not in same} for told in (then, now))
    return before, after


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}={text}" for key, text in value.items()) + "}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
