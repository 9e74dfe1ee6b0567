"""A person's own runs of the suites images_cifar10 beside numbers that were published: fixed beforehand, with tolerances."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from testbed.api import Invalid
from testbed.data.torchvision_sets import torchvision_set
from testbed.identity import examples_digest
from testbed.pipeline.boards import Board, boards_of
from testbed.pipeline.gather import Run, gathered
from testbed.pipeline.rows import COLUMNS
from testbed.plan import stored
from testbed.suite import Suite, read_suite

SUITES, MODEL = ("images_cifar10", "images_cifar10_as_published"), "preact_resnet18"
"""Both forms of the protocol; the second trains on the defender's clean rows too, as was published."""
HARMLESS = ("data.root", "data.download", "trainer.accelerator", "trainer.threads")
"""Settings with which a run still is the suite's: they say where, and not what."""
TORCHVISION = f"{torchvision_set.__module__}.{torchvision_set.__qualname__}"
MEASURES = ("clean_accuracy", "attack_success_rate")

Check = Callable[[Run], str]


class Anchor(NamedTuple):
    """A published number, in percent."""

    ratio: float
    attack: str
    defence: str
    measure: str
    value: float

    @property
    def tolerance(self) -> float:
        """Percentage points, for a mean over seeds against one published run.

        The only public repetitions of one cell, at one seed, spread over 0.5 points of accuracy and of a success near 95 %
        (BadNets at 10 %: 91.32, 91.84, 91.41 and 95.03, 94.52, 94.48); other seeds and machines get twice that in accuracy and
        four times that in success near 0 or 100 %. In between, success rides on which rows were poisoned: versions of one
        benchmark differ by 9 points (WaNet at 10 %: 89.73 and 98.90), of which 8 are granted.
        """
        if self.measure == "clean_accuracy":
            return 1.0
        return 8.0 if 10 < self.value < 90 else 2.0

    def __str__(self) -> str:
        return f"{self.attack}-{self.ratio:g}-{self.defence}-{self.measure}"


class Comparison(NamedTuple):
    """An anchor beside a person's own mean over n seeds, in percent; `reason` says why there is none."""

    anchor: Anchor
    ours: float | None
    n: int
    reason: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.ours is not None and abs(self.ours - self.anchor.value) <= self.anchor.tolerance

    def __str__(self) -> str:
        published = f"published {self.anchor.value:.2f} ± {self.anchor.tolerance:g}"
        return f"not run: {self.reason}" if self.ours is None else f"{self.ours:.2f} (n = {self.n}), {published}"


def anchors() -> list[Anchor]:
    """The list, a number each."""
    lines = (Path(__file__).parent / "anchors.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return [
        Anchor(float(row["ratio"]), row["attack"], row["defence"], name, float(row[name]))
        for row in rows
        for name in MEASURES
        if row[name]
    ]


def beside(anchor: Anchor, root: Path, unofficial: Check, suite: str = SUITES[0]) -> Comparison:
    """An anchor and the mean of the runs below `root` that the suite itself asks for, all of them on the official images.

    `unofficial` says why the images of a run are not those, '' if they are.
    """
    runs = list(_runs(anchor, root, suite))
    if not runs:
        return Comparison(anchor, None, 0, f"no finished run of this cell of the suite {suite} is below {root}")
    reason = next((why for run in runs if (why := unofficial(run))), "")
    if reason:
        return Comparison(anchor, None, 0, reason)
    values = [float(value) for run in runs if (value := run.measures.get(anchor.measure)) is not None]
    if not values:
        return Comparison(anchor, None, 0, f"{anchor.measure} is undefined in these runs")
    return Comparison(anchor, 100 * fmean(values), len(values))


def _runs(anchor: Anchor, root: Path, suite: str) -> Iterator[Run]:
    asked = {
        (plan.suite.hash, (request.world, request.attack, request.rate), request.method, request.seed)
        for plan in stored(root)
        for request in plan.requests
        if request.seed in plan.suite.seeds and all(_harmless(word) for word in request.changed)
    }
    for board in _boards(root):
        told = board.leaderboard
        for (row, method), cell in board.cells.items() if told.title == suite and told.hash == declared(suite).hash else ():
            mine = [run for run in cell.counted if (told.hash, row, method, run.seed) in asked]
            yield from (run for run in mine if _is(run, row[2], anchor))


def declared(suite: str) -> Suite:
    """The suite as this checkout declares it: runs of another declaration of the same name are none of it."""
    return read_suite(Path(__file__).parents[2] / "conf" / "suite" / f"{suite}.yaml")


def _harmless(word: str) -> bool:
    return word.lstrip("+").partition("=")[0] in HARMLESS


@lru_cache(maxsize=1)
def _boards(root: Path) -> list[Board]:
    return boards_of(root, gathered(root, COLUMNS))


def _is(run: Run, rate: float | None, anchor: Anchor) -> bool:
    names = run.facts["names"]
    told = (names.get("model"), names.get("attack"), names.get("defence"), rate)
    return told == (MODEL, anchor.attack, anchor.defence, anchor.ratio)


def unofficial(run: Run, kind: str = "CIFAR10", root: Path | None = None) -> str:
    """Why the images of a run are not the official ones; '' if its training rows have the digest of those read from them.

    torchvision opens the official files only where they have the published checksums; they are looked for where the run had
    them, or in `root`.
    """
    data = run.config.get("data") or {}
    if data.get("_target_") != TORCHVISION or data.get("kind") != kind:
        source = data.get("kind") or data.get("_target_")
        return f"{run.folder.name} was made from {source}, not from the official files of {kind}"
    asked = {name: value for name, value in data.items() if name != "_target_"} | {"download": False}
    try:
        digest = _digest(json.dumps(asked | ({} if root is None else {"root": str(root)}), sort_keys=True))
    except Invalid as error:
        return f"the official files of {kind} are not there ({' '.join(str(error).split())})"
    same = run.facts["contents"].get("train") == digest
    return "" if same else f"the training rows of {run.folder.name} are not those of the official files of {kind}"


@lru_cache(maxsize=4)
def _digest(asked: str) -> str:
    return examples_digest(torchvision_set(**json.loads(asked)).train)
