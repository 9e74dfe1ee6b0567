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
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from stopwatch import Comparison, Seconds, interleaved, middle, show, timed
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision import transforms
from whole_run import Run, show_runs, whole_runs

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
        for number, batch in enumerate(plan):
            torch.manual_seed(derive(augmentation, f"epoch {plan.epoch}, batch {number}"))
            optimiser.zero_grad()
            victim.loss(batch).backward()
            optimiser.step()
            factor.step()
    return victim.eval()


def same_weights(one: Victim, other: Victim) -> bool:
    """Are all parameters and buffers equal, bit by bit?"""
    state, others = one.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in state.items())


def overhead(
    name: str, victim: Victim, examples: MemoryExamples, *, settings: Settings, repeats: int, target: str = ""
) -> Comparison:
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
    step = {clock: middle(took["bare"], clock) / steps * 1e3 for clock in ("wall", "cpu")}
    extra = [slow.cpu - fast.cpu for slow, fast in zip(took["testbed"], took["bare"], strict=True)]
    notes = {
        "steps": f"{steps} of {settings.batch_size} rows",
        "bare step": f"{step['wall']:.2f} ms wall, {step['cpu']:.2f} ms CPU",
        "extra": f"{statistics.median(extra) / steps * 1e3:.2f} ms CPU a step",
        "final weights": "equal bit by bit",
    }
    return Comparison(f"{name}: testbed.fit / bare loop", took["testbed"], took["bare"], target, notes)


def rows_of_a_step(victim: Victim, milliseconds: float) -> int:
    """The batch size whose bare training step is nearest to so many milliseconds of CPU time here."""
    examples, found = images(2_048), {}
    for size in (16, 32, 48, 64, 96, 128, 192, 256):
        settings = replace(SETTINGS, batch_size=size)
        part = examples.take(torch.arange(8 * size))
        # The shortest of several: other programs on the machine only ever lengthen a step.
        found[size] = min(timed(partial(bare_loop, victim, part, settings, 0)).cpu * 1e3 / 8 for _ in range(5))
        if found[size] >= milliseconds:
            break
    return min(found, key=lambda size: abs(found[size] - milliseconds))


def lightning(repeats: int, rows: int = 5_000, epochs: int = 2, milliseconds: float = 15) -> list[Comparison]:
    """Steps of about `milliseconds`, and the tiny ones of the digits."""
    victim, data = victim_for(TASK), digits()
    with torch.random.fork_rng():
        size = rows_of_a_step(victim, milliseconds)
    usual = replace(SETTINGS, batch_size=size, max_epochs=epochs)
    tiny, small = replace(SETTINGS, batch_size=32, max_epochs=3 * epochs), victim_for(data.task)
    name = f"steps of about {milliseconds:g} ms"
    return [
        overhead(name, victim, images(rows), settings=usual, repeats=repeats, target="<= 1.10"),
        overhead("tiny steps (digits)", small, data.train, settings=tiny, repeats=repeats),
    ]


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}",
        "threads": f"{torch.get_num_threads()}",
    }


PARTS = {"triggers": triggers, "epoch": epoch, "lightning": lightning}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the parts asked for, print them, and store them if asked to: 0 if every target was met, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, "runs"], default=[*PARTS, "runs"])
    parser.add_argument("--repeats", type=int, default=7, help="pairs of each comparison (at least 5 for figures to quote)")
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
        runs: dict[str, list[Run]] = whole_runs(given.repeats) if "runs" in given.parts else {}
    if runs:
        show_runs(runs)
    if given.json:
        stored = {name: [asdict(run) for run in found] for name, found in runs.items()}
        measured = {"machine": facts, "comparisons": [one.as_dict() for one in comparisons], "runs": stored}
        given.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    return int(any(one.verdict.startswith("MISSED") for one in comparisons))


if __name__ == "__main__":
    sys.exit(main())
