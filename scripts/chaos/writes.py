"""Every call that writes fails once, with every error that a disk has; and the process is killed before each of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import standin
from failing import DEAD, ERRORS, LASTING, Disk, death, error_of, failing
from verdict import Found
from world import leftovers

from testbed import index, plan
from testbed.files import verify, write_whole
from testbed.launcher import job
from testbed.record import status
from testbed.suite import Part, Suite
from testbed.tidy import tidy


@dataclass(frozen=True)
class Scene:
    """Something that is written: `act` writes version 0 or 1 into a folder, and returns an exit code and what it said.

    `state` is which version is there now; it raises where what is there is neither. `reason` is why, of a run that failed.
    """

    name: str
    act: Callable[[Path, int], tuple[int, str]]
    state: Callable[[Path], int]
    reason: Callable[[Path], str] = lambda _: ""


@dataclass
class Trials:
    """What became of a scene in all cases: what was there afterwards, and what was wrong, by kind."""

    scene: Scene
    place: Path
    there: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in WRONG})

    def calls(self) -> int:
        """How many calls it takes to replace the old version."""
        place = self._begun("calls")
        with failing(Disk(0, death)) as disk:
            code, said = self.scene.act(place, 1)
        if code != 0 or self.scene.state(place) != 1:
            raise RuntimeError(f"{self.scene.name} cannot be written at all: {said}")
        return len(disk.calls)

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
        for scene in _scenes(scenes.split(",")):
            trials = Trials(scene, place)
            number = trials.calls()
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


# What is written ------------------------------------------------------------------------------------------------------------


def _scenes(names: list[str]) -> Iterator[Scene]:
    known = {"run": _run, "index": _index, "plan": _plan, "file": _file, "victim": _victim, "checkpoint": _checkpoint}
    for name in names:
        yield known[name]()


def explained(act: Callable[[], Any]) -> tuple[int, str]:
    """What the command line makes of it: the exit code, and the line that it would print."""
    try:
        act()
    except Exception as error:  # as the command line does
        said, code = job.explained(error)
        return code, f"error: {said}"
    return 0, ""


def _run() -> Scene:
    """A run that had failed is made again, by all that `testbed train` does after its configuration is composed."""
    job.PIPELINES["train"] = "standin:train"
    standin.inside = lambda name: contextlib.nullcontext()  # what it notes for others is no part of a run

    def act(place: Path, version: int) -> tuple[int, str]:
        os.chdir(place)
        method = {"how": "well", "faults": {} if version else {"s0": "raise"}}
        config = {"paths": {"outputs": str(place / "outputs")}, "seed": 0, "defence": method}
        names = {"data": "digits", "attack": "badnets", "defence": "mixed"}
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = job.run(job.Job("train", config, names, group="grid"))
        return (code if version else 0), said.getvalue().strip()

    def state(place: Path) -> int:
        (folder,) = (place / "outputs" / "train").glob("[!.]*")
        verify(folder)
        return {"failed": 0, "done": 1}[str(status(folder))]

    def reason(place: Path) -> str:
        (result,) = (place / "outputs" / "train").glob("[!.]*/result.json")
        return str(json.loads(result.read_text(encoding="utf-8"))["reason"])

    return Scene("run", act, state, reason)


def _index() -> Scene:
    entries = index.Entry("failed", "broken"), index.Entry("done", folder="train/it")
    return Scene(
        "index",
        lambda place, version: explained(lambda: index.write(place / "outputs", "0" * 16, entries[version])),
        lambda place: entries.index(index.entry(place / "outputs", "0" * 16)),  # type: ignore[arg-type]
    )


def _plan() -> Scene:
    part = {"none": Part()}
    axes: dict[str, Any] = {"worlds": part, "attacks": {"one": Part()}, "methods": part}
    suite = Suite(name="broken", verb="train", clean_budget="none", seeds=(0,), **axes)
    whole = plan.planned(suite, plan.Choice())

    def state(place: Path) -> int:
        (path,) = (place / "outputs").glob("benchmark/*/plan-*.json")
        return int(json.loads(path.read_text(encoding="utf-8"))["command"][0])

    return Scene("plan", lambda place, version: explained(lambda: plan.store(whole, [str(version)], place / "outputs")), state)


def _file() -> Scene:
    return Scene(
        "file",
        lambda place, version: explained(
            lambda: write_whole(place / "outputs" / "benchmark" / "it" / "file", f"{version}" * 9000)
        ),
        lambda place: [b"0" * 9000, b"1" * 9000].index((place / "outputs" / "benchmark" / "it" / "file").read_bytes()),
    )


def _victim() -> Scene:
    """A shared victim that is found damaged is made again."""
    import torch
    from safetensors.torch import load_file

    from testbed.artefact import save_victim
    from testbed.files import committed
    from testbed.lock import lock

    victim = _untrained()

    def write(place: Path, version: int) -> None:
        with torch.no_grad():
            for parameter in victim.net.parameters():
                parameter.fill_(version)
        with lock(place / "outputs" / "victim" / "key"), committed(place / "outputs" / "victim" / "key") as folder:
            save_victim(victim, folder, [], {"key": "key"}, True)

    def state(place: Path) -> int:
        folder = place / "outputs" / "victim" / "key"
        verify(folder)
        weights = [part for name, part in load_file(folder / "model.safetensors").items() if name.startswith("net.")]
        (value,) = {float(value) for part in weights for value in part.unique()}
        return int(value)

    return Scene("victim", lambda place, version: explained(partial(write, place, version)), state)


def _checkpoint() -> Scene:
    """The checkpoint of a training: the newest that is whole is the one before it or the new one."""
    import torch

    from testbed.checkpointing import Resumable, WholeFiles

    def write(place: Path, version: int) -> None:
        path = place / "outputs" / "checkpoint" / "key" / f"epoch-{version:06}.ckpt"
        WholeFiles().save_checkpoint({"version": version, "weights": torch.full((900,), version)}, path)

    def state(place: Path) -> int:
        with contextlib.redirect_stdout(io.StringIO()):
            begun = Resumable(place / "outputs" / "checkpoint" / "key", 0).begin()
        if begun is None or set(begun["weights"].tolist()) != {begun["version"]}:
            raise OSError("no checkpoint is whole")
        return int(begun["version"])

    return Scene("checkpoint", lambda place, version: explained(partial(write, place, version)), state)


def _untrained() -> Any:
    """A small image classifier, so that all its weights can be set to one number."""
    from testbed.api import ImageTask
    from testbed.model.image import ImageVictim

    return ImageVictim(ImageTask("images", ("a", "b"), shape=(1, 8, 8)), linear)


def linear(channels: int, classes: int, size: int) -> Any:
    """The least that classifies an image."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))
