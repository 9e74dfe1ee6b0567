"""Every call that writes fails once, with every error that a disk has; and the process is killed before each of them."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from failing import DEAD, ERRORS, LASTING, Disk, death, error_of, failing
from scenes import Scene, scenes_of
from verdict import Found
from world import leftovers

from testbed.tidy import tidy


@dataclass
class Trials:
    """What became of a scene in all cases: what was there afterwards, and what was wrong, by kind."""

    scene: Scene
    place: Path
    there: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in WRONG})

    def calls(self) -> list[str]:
        """The calls that it takes to replace the old version."""
        place = self._begun("calls")
        with failing(Disk(0, death)) as disk:
            code, said = self.scene.act(place, 1)
        if code != 0 or self.scene.state(place) != 1:
            raise RuntimeError(f"{self.scene.name} cannot be written at all: {said}")
        return disk.calls

    def fault(self, number: int, error: str) -> None:
        """The call of this number fails with this error."""
        place = self._begun(f"{error}-{number}")
        with failing(Disk(number, error_of(ERRORS[error]), LASTING.get(error, ()))) as disk:
            code, said = self.scene.act(place, 1)
        case = f"{self.scene.name}: {disk.calls[number - 1]} ({number}) {error}"
        new = self._look(place, case) == 1
        # What a method may not open is that run's own fault: recorded, with its reason, and the others go on.
        recorded = error == "EACCES" and code == 1 and os.strerror(ERRORS[error]) in self.scene.reason(place)
        if code != 4 and not (code == 0 and new) and not recorded:
            self.wrong["code"].append(f"{case}: {code} {said[-200:]}")
        if code == 4 and (len(said.splitlines()) != 1 or str(self.place) not in said):
            self.wrong["line"].append(f"{case}: {said[-200:]}")
        self._again(place, case)

    def death(self, number: int) -> None:
        """The process is killed before the call of this number."""
        place = self._begun(f"death-{number}")
        child = os.fork()
        if child == 0:
            with failing(Disk(number, death)):
                self.scene.act(place, 1)
            os._exit(0)
        _, ended = os.waitpid(child, 0)
        case = f"{self.scene.name}: killed before call {number}"
        if os.waitstatus_to_exitcode(ended) != DEAD:
            self.wrong["again"].append(f"{case}: it was not killed there")
        self._look(place, case)
        self._again(place, case)

    def _begun(self, case: str) -> Path:
        """A folder of its own for a case, with the old version in it."""
        place = self.place / f"{self.scene.name}-{case}"
        place.mkdir()
        code, said = self.scene.act(place, 0)
        if self.scene.state(place) != 0:
            raise RuntimeError(f"{self.scene.name}: the old version could not be written: {code} {said}")
        return place

    def _look(self, place: Path, case: str) -> int | None:
        """Which version is there; if none is, which is once leftovers are tidied up, as every command does as it starts."""
        try:
            found = self.scene.state(place)
        except Exception:  # whatever reading it raises, neither is there now
            tidy(place / "outputs")
            found = self._state(place, case)
            self.there["old, once a command started"] += found == 0
            self.there["new, once a command started"] += found == 1
            return found
        self.there["new" if found else "old"] += 1
        return found

    def _state(self, place: Path, case: str) -> int | None:
        try:
            return self.scene.state(place)
        except Exception as error:  # whatever reading it raises, it is neither old nor new
            self.wrong["neither"].append(f"{case}: {type(error).__name__}: {error}")
            return None

    def _again(self, place: Path, case: str) -> None:
        """The same once more on a sound disk."""
        tidy(place / "outputs")
        code, said = self.scene.act(place, 1)
        if code != 0 or self._state(place, case) != 1:
            self.wrong["again"].append(f"{case}: {code} {said[-200:]}")
        left = leftovers(place / "outputs")
        if case.endswith("EROFS"):  # a read-only disk lets nothing go, and what a living process left is not swept
            left = [path for path in left if str(os.getpid()) not in path]
        self.wrong["left"] += [f"{case}: {path}" for path in left]


WRONG = {
    "neither": "neither old nor new",
    "code": "exit codes other than 4 (or 0, where the new is there)",
    "line": "errors that are not one line with a path in it",
    "again": "cases where the same command did not succeed afterwards",
    "left": "leftovers after that",
}


def writes(
    place: Path,
    *,
    scenes: str = "run,index,plan,file,victim,checkpoint",
    errors: str = ",".join(ERRORS),
    every: int = 1,
) -> Found:
    """Each call that writes fails once, in the commit of a run, a victim, a checkpoint, a plan and an entry: old or new.

    `every` looks at each so-many-th call alone.
    """
    began, here = time.monotonic(), Path.cwd()
    found, there = Found({}), Counter[str]()
    wrong: dict[str, list[str]] = {name: [] for name in WRONG}
    try:
        for scene in scenes_of(scenes.split(",")):
            trials = Trials(scene, place)
            number = len(trials.calls())
            chosen = range(1, number + 1, every)
            for n in chosen:
                for error in errors.split(","):
                    trials.fault(n, error)
                trials.death(n)
            found.figures[scene.name] = f"{number} calls, {len(chosen) * (len(errors.split(',')) + 1)} cases"
            there += trials.there
            wrong = {name: [*wrong[name], *trials.wrong[name]] for name in wrong}
    finally:
        os.chdir(here)
    found.figures["there afterwards"] = ", ".join(f"{name} {count}" for name, count in sorted(there.items()) if count)
    found.figures["seconds"] = round(time.monotonic() - began, 1)
    for name, title in WRONG.items():
        found.none(title, wrong[name])
    return found
