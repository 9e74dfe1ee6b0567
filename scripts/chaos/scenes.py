"""What is written in a scene, as the testbed writes it: a run, an entry, a plan, a file, a victim, a checkpoint."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import standin

from testbed import index, plan
from testbed.files import verify, write_whole
from testbed.launcher import job
from testbed.record import status
from testbed.suite import Part, Suite


@dataclass(frozen=True)
class Scene:
    """Something that is written: `act` writes version 0 or 1 into a folder, and returns an exit code and what it said.

    `state` is which version is there now; it raises where what is there is neither. `reason` is why, of a run that failed.
    """

    name: str
    act: Callable[[Path, int], tuple[int, str]]
    state: Callable[[Path], int]
    reason: Callable[[Path], str] = lambda _: ""


def scenes_of(names: list[str]) -> Iterator[Scene]:
    """The scenes of these names."""
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
