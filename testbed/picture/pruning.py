"""What is left of the backdoor, and of the model, as channels are pruned."""

from __future__ import annotations

import copy
import csv
from collections.abc import Sequence

import torch
from torch import Tensor

from testbed.api import ChannelParameter, Victim
from testbed.features import read
from testbed.figure import plot
from testbed.metrics import answer
from testbed.picture.activation_change import moved
from testbed.picture.view import Measures, View

STEPS = 20
LINES = {"dormant": "-", "oracle": "--"}
KEPT = 0.9
"""A model that keeps this share of its accuracy counts as usable."""


def pruning(view: View) -> Measures:
    """Attack success and clean accuracy on the test as penultimate channels are silenced, in two orders.

    'dormant' is fine-pruning's: least mean activation on the reserve first, which a defender can know (left out where there is
    no reserve). 'oracle' begins with the channels that the trigger moves most, which no defender knows: where even that does
    not part success from accuracy, no pruning of these channels can. Channels that a defence has silenced are left out.
    `pruning_success_<order>` is the least success at .9 of the first accuracy or more.

    Source: the curve of Liu et al. 2018 (RAID, arXiv 1805.12185).
    """
    live = view.norms() > 0
    orders = {"oracle": moved(view).argsort(descending=True)}
    if len(view.reserve):
        orders["dormant"] = read(view.victim, view.reserve, "penultimate").features.mean(0).argsort()
    curves = {name: _curve(view, order[live[order]]) for name, order in sorted(orders.items())}
    _keep(view, curves)
    _draw(view, curves)
    return {f"pruning_success_{name}": _least(curve) for name, curve in curves.items()}


Point = tuple[float, float, float]
"""Share pruned, clean accuracy, attack success."""


def _curve(view: View, order: Tensor) -> list[Point]:
    points = []
    for end in sorted({round(len(order) * step / STEPS) for step in range(STEPS)}):
        pruned = copy.deepcopy(view.victim)
        silence(pruned, order[:end])
        clean, exam = answer(pruned, view.test), answer(pruned, view.test, view.attacked())
        assert clean.correct is not None and exam.wanted is not None
        points.append((end / len(order), *(float(hits.double().mean()) for hits in (clean.correct, exam.wanted))))
    return points


@torch.no_grad()
def silence(victim: Victim, channels: Tensor) -> None:
    """Zero these penultimate channels, int64 (n,), in place."""
    parameters: Sequence[ChannelParameter] = victim.groups["penultimate"]
    for parameter in parameters:
        getattr(parameter.module, parameter.name).index_fill_(parameter.dim, channels.to(victim.device), 0)


def _least(curve: Sequence[Point]) -> float:
    usable = [success for _, accuracy, success in curve if accuracy >= KEPT * curve[0][1]]
    return min(usable)


def _keep(view: View, curves: dict[str, list[Point]]) -> None:
    with (view.folder / "pruning.csv").open("w", newline="", encoding="utf-8") as stream:
        written = csv.writer(stream, lineterminator="\n")
        written.writerow(["order", "share_pruned", "clean_accuracy", "attack_success_rate"])
        written.writerows([name, *point] for name, curve in curves.items() for point in curve)


def _draw(view: View, curves: dict[str, list[Point]]) -> None:
    with plot(view.folder / "figures" / "pruning.png", (6.0, 4.2)) as (_, axis):
        for name, curve in curves.items():
            line = LINES[name]
            share, accuracy, success = zip(*curve, strict=True)
            axis.plot(share, accuracy, line, color="tab:blue", label=f"clean accuracy, {name} first")
            axis.plot(share, success, line, color="tab:red", label=f"attack success, {name} first")
        axis.set(xlabel="share of the last channels pruned", ylim=(-0.03, 1.03))
        axis.set(title="what pruning would do: it looks at the test, as no defence may")
        axis.legend(fontsize="small")
