"""How fast the testbed is: triggers, training and the framework's own overhead, each as a ratio against the usual way.

    python scripts/benchmark.py                       (a few minutes on two cores)
    python scripts/benchmark.py --parts triggers epoch --repeats 9 --json benchmark.json

Both sides of a comparison alternate in one process (A B A B ...); each pair gives one ratio, and the table shows the median
with the smallest and the largest. Wall time is what a user waits for, CPU time (threads and worker processes included) is what
other programs on the machine disturb least: where the two disagree, the verdict is on CPU time.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision import transforms

from testbed.api import ImageTask, Victim
from testbed.data.digits import digits
from testbed.data.memory import MemoryExamples
from testbed.fit import BatchPlan, Settings, fit, one_cycle, placed, threads
from testbed.identity import derive, generator
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.trigger.blend import Blend
from testbed.trigger.patch import Patch

TASK = ImageTask("images", tuple("0123456789"), (3, 32, 32), (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), "crop_flip")
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
SETTINGS = Settings(max_epochs=1, batch_size=128, optimiser=SGD, schedule=one_cycle, accelerator="cpu")
DISAGREE = 1.15
"""Wall and CPU ratios further apart than this factor are said to disagree."""

RUN = """
import json, sys, time
from testbed import artefact, cli
seconds, fits, plain = (lambda: [time.perf_counter(), time.process_time()]), [], artefact.fit
def watched(*given, **options):
    import pytorch_lightning  # part of getting ready, not of training
    before = seconds()
    trained = plain(*given, **options)
    fits.append([before, seconds()])
    return trained
artefact.fit = watched
code = cli.main(sys.argv[1:])
print(json.dumps({"fits": fits, "end": seconds()}), file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Seconds:
    """Wall time and CPU time (of all threads, and of worker processes that have ended)."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of pairs, the smallest and the largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:6.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Comparison:
    """One row of the table: `slow` over `fast`, or for an overhead `ours` over the bare loop; `target` is what it should be."""

    name: str
    above: list[Seconds]
    below: list[Seconds]
    target: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    def ratio(self, clock: str) -> Ratio:
        """Of one clock, 'wall' or 'cpu'."""
        pairs = zip(self.above, self.below, strict=True)
        ratios = [getattr(above, clock) / getattr(below, clock) for above, below in pairs]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))

    @property
    def clock(self) -> str:
        """The clock that the verdict is on."""
        wall, cpu = self.ratio("wall").median, self.ratio("cpu").median
        return "cpu" if max(wall / cpu, cpu / wall) > DISAGREE else "wall"

    @property
    def verdict(self) -> str:
        """'met' or 'MISSED', on which clock; '' without a target."""
        if not self.target:
            return ""
        relation, limit = self.target.split()
        median = self.ratio(self.clock).median
        met = median >= float(limit) if relation == ">=" else median <= float(limit)
        return f"{'met' if met else 'MISSED'} ({self.clock})"

    def as_dict(self) -> dict[str, object]:
        """Everything measured, as plain data."""
        ratios = {f"{clock}_ratio": asdict(self.ratio(clock)) for clock in ("wall", "cpu")}
        return {**asdict(self), **ratios, "verdict": self.verdict}


def now() -> Seconds:
    """Both clocks as they stand."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime)


def timed(work: Callable[[], object], scale: float = 1.0) -> Seconds:
    """How long one call takes, times `scale`."""
    before = now()
    work()
    after = now()
    return Seconds((after.wall - before.wall) * scale, (after.cpu - before.cpu) * scale)


def interleaved(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[Seconds]]:
    """Each in turn, `repeats` times, after one round that does not count."""
    rounds = [{name: timed(work) for name, work in works.items()} for _ in range(repeats + 1)][1:]
    return {name: [one[name] for one in rounds] for name in works}


def images(rows: int, seed: int = 0) -> MemoryExamples:
    """Random images and labels for `TASK`: speed does not depend on what they show."""
    random = generator(seed, "benchmark")
    inputs = torch.randint(0, 256, (rows, *TASK.shape), generator=random, dtype=torch.uint8)
    return MemoryExamples(inputs, torch.randint(0, 10, (rows,), generator=random))


def victim_for(task: ImageTask) -> Victim:
    """The untrained small convolutional network, always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ImageVictim(task, SmallCNN)


# 1. Poisoning -----------------------------------------------------------------------------------------------------------


def stamped_one_by_one(stored: np.ndarray, rows: int, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """The usual way: each of `rows` images out of an array (N, H, W, C), through PIL, and into another."""
    poisoned = np.empty_like(stored[:rows])
    for row in range(rows):
        poisoned[row] = np.asarray(change(Image.fromarray(stored[row])))
    return poisoned


def pasted(picture: Image.Image) -> Image.Image:
    """A white square of 3x3 pixels in the bottom right corner."""
    picture.paste((255, 255, 255), (29, 29, 32, 32))
    return picture


def triggers(repeats: int, rows: int = 60_000, part: int = 6_000) -> list[Comparison]:
    """Stamping `rows` images, the copy counted, against PIL on `part` of them, scaled linearly."""
    inputs = images(rows).inputs
    stored = inputs.permute(0, 2, 3, 1).contiguous().numpy()
    numbers, blend = torch.arange(rows), Blend(alpha=0.2)
    pattern = Image.fromarray(blend.pattern(TASK.shape).permute(1, 2, 0).to(torch.uint8).numpy())
    notes = {"rows": f"{rows}", "PIL loop": f"timed on {part} rows, times {rows / part:g}"}
    sides = (
        ("patch", Patch(), pasted, ">= 15"),
        ("blend", blend, lambda picture: Image.blend(picture, pattern, 0.2), ">= 4"),
    )
    found = []
    for name, trigger, change, target in sides:
        works = {
            "PIL": partial(stamped_one_by_one, stored, part, change),
            "testbed": partial(trigger, inputs, numbers, 0),
        }
        took = interleaved(works, repeats)
        whole = [Seconds(one.wall * rows / part, one.cpu * rows / part) for one in took["PIL"]]
        found.append(Comparison(f"poison with {name}: PIL one by one / testbed", whole, took["testbed"], target, notes))
    return found


# 2. An epoch of training ------------------------------------------------------------------------------------------------


class OneByOne(torch.utils.data.Dataset):
    """The usual data set: an array of images, each through torchvision's transforms when it is asked for."""

    def __init__(self, examples: MemoryExamples) -> None:
        self.stored = examples.inputs.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = examples.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(TASK.mean, TASK.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(self.stored[row]), self.labels[row]


def usual_epoch(victim: ImageVictim, examples: MemoryExamples, settings: Settings, workers: int) -> None:
    """One epoch as tutorials write it: a shuffled DataLoader, a plain loop."""
    network = copy.deepcopy(victim.net).train()
    loader = torch.utils.data.DataLoader(OneByOne(examples), settings.batch_size, shuffle=True, num_workers=workers)
    optimiser = settings.optimiser(network.parameters())
    for inputs, labels in loader:
        optimiser.zero_grad()
        cross_entropy(network(inputs), labels).backward()
        optimiser.step()


def epoch(repeats: int, rows: int = 5_000) -> list[Comparison]:
    """One epoch of the small network on `rows` images, through `testbed.fit`, against torchvision's transforms one by one."""
    victim, examples = victim_for(TASK), images(rows)
    half = replace(SETTINGS, precision="bf16-mixed")
    works = {
        "fp32": partial(fit, victim, examples, settings=SETTINGS, seed=0),
        "bf16": partial(fit, victim, examples, settings=half, seed=0),
        **{f"{workers} workers": partial(usual_epoch, victim, examples, SETTINGS, workers) for workers in (0, 2)},
    }
    with torch.random.fork_rng():
        took = interleaved(works, repeats)
    medians = {name: f"{middle(times, 'wall'):.2f} s wall, {middle(times, 'cpu'):.2f} s CPU" for name, times in took.items()}
    both = zip(took["0 workers"], took["2 workers"], strict=True)
    usual = [Seconds(min(one.wall, two.wall), min(one.cpu, two.cpu)) for one, two in both]
    notes = {"rows": f"{rows}", "parameters": f"{sum(value.numel() for value in victim.parameters()):,}", **medians}
    return [
        Comparison("epoch, fp32: torchvision + DataLoader (the better one) / testbed", usual, took["fp32"], ">= 1.8", notes),
        Comparison("epoch, testbed in bf16 instead: torchvision / testbed", usual, took["bf16"]),
    ]


# 3. Lightning against a bare loop ---------------------------------------------------------------------------------------


def bare_loop(victim: Victim, examples: MemoryExamples, settings: Settings, seed: int) -> Victim:
    """What `testbed.fit.fit` does, written as a plain loop: same rows, order, optimiser, schedule and random numbers."""
    victim = placed(copy.deepcopy(victim), settings)
    plan = BatchPlan(examples, settings.batch_size, derive(seed, "order"), settings.device)
    optimiser = settings.optimiser(victim.parameters())
    steps, augmentation = settings.max_epochs * len(plan), derive(seed, "augmentation")
    factor = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: settings.schedule(min(step, steps - 1) / steps))
    for plan.epoch in range(settings.max_epochs):
        victim.train()
        torch.manual_seed(derive(augmentation, f"epoch {plan.epoch}"))
        for batch in plan:
            optimiser.zero_grad()
            victim.loss(batch).backward()
            optimiser.step()
            factor.step()
    return victim.eval()


def same_weights(one: Victim, other: Victim) -> bool:
    """Are all parameters and buffers equal, bit by bit?"""
    state, others = one.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in state.items())


def overhead(name: str, victim: Victim, examples: MemoryExamples, settings: Settings, repeats: int, target: str) -> Comparison:
    """The whole run through Lightning over the bare loop on the same batches.

    Raises:
        RuntimeError: the two do not end in the same weights, so that they cannot be compared.
    """
    trained: dict[str, Victim] = {}
    works = {
        "testbed": lambda: trained.update(testbed=fit(victim, examples, settings=settings, seed=0)[0]),
        "bare": lambda: trained.update(bare=bare_loop(victim, examples, settings, 0)),
    }
    with torch.random.fork_rng():
        took = interleaved(works, repeats)
    if not same_weights(trained["testbed"], trained["bare"]):
        raise RuntimeError(f"{name}: testbed.fit and the bare loop trained different weights; the times cannot be compared")
    steps = settings.max_epochs * len(BatchPlan(examples, settings.batch_size, 0, settings.device))
    extra = [(fast.cpu, slow.cpu) for fast, slow in zip(took["bare"], took["testbed"], strict=True)]
    notes = {
        "steps": f"{steps} of {settings.batch_size} rows",
        "bare step": f"{middle(took['bare'], 'wall') / steps * 1e3:.2f} ms wall, {middle(took['bare'], 'cpu') / steps * 1e3:.2f} ms CPU",
        "extra": f"{statistics.median(slow - fast for fast, slow in extra) / steps * 1e3:.2f} ms CPU a step",
        "final weights": "equal bit by bit",
    }
    return Comparison(f"{name}: testbed.fit / bare loop", took["testbed"], took["bare"], target, notes)


def rows_of_a_step(victim: Victim, milliseconds: float) -> int:
    """The batch size whose bare training step is nearest to so many milliseconds of CPU time here."""
    examples, found = images(2_048), {}
    for size in (16, 32, 48, 64, 96, 128, 192, 256):
        settings = replace(SETTINGS, batch_size=size)
        part = examples.take(torch.arange(8 * size))
        times = [timed(partial(bare_loop, victim, part, settings, 0), 1e3 / 8) for _ in range(3)]
        found[size] = statistics.median(one.cpu for one in times)
    return min(found, key=lambda size: abs(found[size] - milliseconds))


def lightning(repeats: int, rows: int = 5_000, epochs: int = 4, milliseconds: float = 15) -> list[Comparison]:
    """Steps of about `milliseconds`, and the tiny ones of the digits."""
    victim, data = victim_for(TASK), digits()
    with torch.random.fork_rng():
        size = rows_of_a_step(victim, milliseconds)
    usual = replace(SETTINGS, batch_size=size, max_epochs=epochs)
    tiny = replace(SETTINGS, batch_size=32, max_epochs=3 * epochs)
    small = victim_for(data.task)
    return [
        overhead(f"steps of about {milliseconds:g} ms", victim, images(rows), usual, repeats, "<= 1.10"),
        overhead("tiny steps (digits)", small, data.train, tiny, repeats, ""),
    ]


# 4. A whole run from the command line -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run in a process of its own: where its time went, and its phases from `run.json`."""

    until_training: Seconds
    training: Seconds
    rest: Seconds
    phases: dict[str, float]


def run_once(outputs: Path, overrides: Sequence[str]) -> Run:
    """`testbed train` on the digits in a fresh process.

    Raises:
        RuntimeError: the command failed.
    """
    words = ["train", "data=digits", "attack=badnets", "logger=none", f"paths.outputs={outputs}", *overrides]
    start, root = time.perf_counter(), str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", RUN, *words], env=environment, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"testbed {' '.join(words)} failed: {done.stderr.strip()}")
    said = json.loads(done.stderr.strip().splitlines()[-1])
    end = Seconds(*said["end"])
    fits = [(Seconds(*before), Seconds(*after)) for before, after in said["fits"]]
    trained = Seconds(sum(b.wall - a.wall for a, b in fits), sum(b.cpu - a.cpu for a, b in fits))
    first = fits[0][0] if fits else end
    ready = Seconds(wall - (end.wall - first.wall), first.cpu)
    record = json.loads(next((outputs / "train").glob("*/run.json")).read_text(encoding="utf-8"))
    rest = Seconds(wall - ready.wall - trained.wall, end.cpu - ready.cpu - trained.cpu)
    return Run(ready, trained, rest, record["seconds"])


def whole_runs(repeats: int, overrides: Sequence[str] = ()) -> dict[str, list[Run]]:
    """A first run (victim and clean twin are trained) and the same command again (nothing to do), alternating."""
    runs: dict[str, list[Run]] = {"first run": [], "same again": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for found in runs.values():
                found.append(run_once(Path(folder), overrides))
    return runs


# The table ----------------------------------------------------------------------------------------------------------------


def middle(times: Sequence[Seconds], clock: str) -> float:
    """The median of one clock."""
    return statistics.median(getattr(one, clock) for one in times)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}",
        "threads": f"{torch.get_num_threads()}",
    }


def show(comparisons: Sequence[Comparison]) -> None:
    """One row for each comparison, its notes below it."""
    for one in comparisons:
        print(f"\n{one.name}")
        for clock in ("wall", "cpu"):
            seconds = f"{middle(one.above, clock):8.3f} s / {middle(one.below, clock):7.3f} s"
            print(f"  {clock:<5}{seconds}   {one.ratio(clock)}   n={len(one.above)}")
        if one.target:
            print(f"  target {one.target}: {one.verdict}")
        for name, note in one.notes.items():
            print(f"  {name}: {note}")


def show_runs(runs: Mapping[str, Sequence[Run]]) -> None:
    """Where the time of a whole run goes: medians of wall and CPU seconds."""
    print("\ntestbed train data=digits attack=badnets, in a process of its own (medians, wall / CPU seconds)")
    for name, found in runs.items():
        parts = {"until training": "until_training", "in fit": "training", "the rest": "rest"}
        cells = [
            f"{label} {middle(times, 'wall'):.2f} / {middle(times, 'cpu'):.2f}"
            for label, times in ((label, [getattr(run, part) for run in found]) for label, part in parts.items())
        ]
        print(f"  {name:<12}{'   '.join(cells)}   n={len(found)}")
    phases = {name: statistics.median(run.phases[name] for run in runs["first run"]) for name in runs["first run"][0].phases}
    print("  phases of the first run (wall): " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items()))


PARTS = {"triggers": triggers, "epoch": epoch, "lightning": lightning}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the parts asked for, print them, and store them if asked to: 0 if every target was met, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, "runs"], default=[*PARTS, "runs"])
    parser.add_argument("--repeats", type=int, default=5, help="pairs of each comparison (at least 5 for figures to quote)")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads (default 1)")
    parser.add_argument("--json", type=Path, help="also write everything that was measured to this file")
    given = parser.parse_args(argv)
    with threads(given.threads):
        facts = machine()
        print("\n".join(f"{name}: {value}" for name, value in facts.items()))
        comparisons: list[Comparison] = []
        for part in (part for part in PARTS if part in given.parts):
            found = PARTS[part](given.repeats)
            show(found)
            comparisons += found
        runs = whole_runs(given.repeats) if "runs" in given.parts else {}
    if runs:
        show_runs(runs)
    if given.json:
        stored = {name: [asdict(run) for run in found] for name, found in runs.items()}
        measured = {"machine": facts, "comparisons": [one.as_dict() for one in comparisons], "runs": stored}
        given.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    return int(any(one.verdict.startswith("MISSED") for one in comparisons))


if __name__ == "__main__":
    sys.exit(main())
