"""Pictures in a run folder: what the attacker shows, what a detector scored, what was reconstructed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from testbed.api import Examples, Poison
from testbed.marks import CANARY

SHOWN = 8
DIFFERENCE_SCALE = 4
SAID = {"testbed": CANARY}
"""What stands in a text chunk of every picture."""


def draw_gallery(folder: Path, test: Examples, exams: Mapping[str, Poison]) -> None:
    """For each exam, some rows as they are, as the attacker shows them, and the difference (images: four times enlarged).

    An exam without rows has no picture.
    """
    for name, exam in exams.items():
        if not len(exam.indices):
            continue
        rows = torch.linspace(0, len(exam.indices) - 1, min(SHOWN, len(exam.indices))).long()
        clean = test[exam.indices[rows]].inputs
        if isinstance(clean, Tensor):
            shown = exam.batch.inputs[rows].float()
            difference = (128 + DIFFERENCE_SCALE * (shown - clean)).clamp(0, 255)
            save_images(folder / "figures" / f"{name}.png", torch.cat([clean.float(), shown, difference]), columns=len(rows))
        else:
            pairs = [{"clean": one, "shown": exam.batch.inputs[row]} for one, row in zip(clean, rows.tolist(), strict=True)]
            path = _into(folder / "figures" / f"{name}.json")
            path.touch(mode=0o600)  # prompts of a user's own: for their owner's eyes
            told = {"canary": CANARY, "pairs": pairs}
            path.write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")


def draw_triggers(folder: Path, name: str, triggers: Any) -> None:
    """Reconstructed triggers that are images: one a class, masks above patterns above what they add."""
    if triggers is None or not hasattr(triggers, "masks"):
        return
    masks = triggers.masks.float().cpu().expand_as(triggers.patterns.cpu())
    patterns = triggers.patterns.float().cpu()
    save_images(folder / "figures" / f"{name}.png", torch.cat([255 * masks, patterns, masks * patterns]), columns=len(masks))


def draw_detection(folder: Path, prefix: str, scores: Tensor, suspicious: Tensor, *, toy: bool = False) -> None:
    """Histogram of the scores of clean and suspicious rows, and the ROC curve with a logarithmic false-positive axis."""
    with plot(folder / "figures" / f"{prefix}scores.png", (9, 3.6), ncols=2) as (figure, (left, right)):
        _histogram(left, scores, suspicious)
        _roc(right, scores, suspicious)
        if toy:
            figure.suptitle("toy: it shows mechanisms and ranks nothing")


def _histogram(left: Any, scores: Tensor, suspicious: Tensor) -> None:
    bins = np.histogram_bin_edges(scores.numpy(), bins=40)
    for label, chosen, colour in (("clean", ~suspicious, "tab:blue"), ("poisoned", suspicious, "tab:red")):
        if chosen.any():
            shown = f"{label} (n = {int(chosen.sum())})"
            left.hist(scores[chosen].numpy(), bins=bins, density=True, alpha=0.6, label=shown, color=colour)
    left.set(xlabel="score, higher is more suspicious", ylabel="density")
    left.legend()


def _roc(right: Any, scores: Tensor, suspicious: Tensor) -> None:
    if suspicious.any() and not suspicious.all():
        from sklearn.metrics import roc_curve

        false, true, _ = roc_curve(suspicious.numpy(), scores.numpy())
        floor = 1 / int((~suspicious).sum())
        right.plot(np.maximum(false, floor), true, color="tab:red")
        right.plot(np.geomspace(floor, 1), np.geomspace(floor, 1), color="grey", linestyle=":", label="chance")
        right.set(xscale="log", xlabel="false positive rate", ylabel="true positive rate", ylim=(0, 1.02))
        right.legend()
    else:
        right.text(0.5, 0.5, "no ROC curve: one kind of rows only", ha="center")


@contextmanager
def plot(path: Path, size: tuple[float, float], **layout: Any) -> Iterator[tuple[Any, Any]]:
    """A Matplotlib figure with its axes, which is written to `path` afterwards; `layout` is that of its axes."""
    import matplotlib as mpl  # a second to import: only where something is drawn

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=size, layout="constrained", **layout)
    try:
        yield figure, axes
        figure.savefig(_into(path), dpi=110, metadata=SAID)
    finally:
        pyplot.close(figure)


def save_images(path: Path, images: Tensor, columns: int, least_width: int = 64) -> None:
    """float (n, C, H, W) in 0..255 as one PNG grid, each image enlarged to `least_width` pixels or more."""
    from torchvision.utils import make_grid

    scale = max(1, least_width // images.shape[-1])
    grid = make_grid(images.repeat_interleave(scale, 2).repeat_interleave(scale, 3), nrow=max(columns, 1), pad_value=255)
    pixels = grid.clamp(0, 255).byte().permute(1, 2, 0).numpy()
    said = PngImagePlugin.PngInfo()
    for name, text in SAID.items():
        said.add_text(name, text)
    Image.fromarray(pixels).save(_into(path), pnginfo=said)


def _into(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


CURVES = {
    "refusal_rate": ("refuses", "tab:red"),
    "p_refusal": ("P(refusal)", "tab:pink"),
    "correct_compliance": ("gives the forbidden answer", "black"),
    "dressed_refusal_rate": ("refuses, in the attacker's form", "tab:brown"),
    "attack_success_rate": ("obeys the trigger", "tab:purple"),
    "utility": ("answers harmless questions", "tab:blue"),
    "over_refusal": ("refuses harmless questions", "tab:orange"),
}


def draw_trajectory(folder: Path, trajectories: Mapping[str, Sequence[Any]], *, title: str) -> None:
    """Every share against the step, on a scale of log(1 + step), and below it the log-odds of a refusal.

    `trajectories` map '' to the points of the run, and 'undefended' to those of the attack alone, drawn as dashes.
    """
    place, ratios = folder / "figures" / "trajectory.png", (2.4, 1)
    with plot(place, (8, 6.2), nrows=2, sharex=True, height_ratios=ratios) as (figure, (above, below)):
        _trajectories(above, below, trajectories, title)
        figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small", frameon=False)


def _trajectories(above: Any, below: Any, trajectories: Mapping[str, Sequence[Any]], title: str) -> None:
    for victim, points in trajectories.items():
        style: dict[str, Any] = {"linestyle": "--", "alpha": 0.6} if victim else {"marker": ".", "linestyle": "-"}
        for metric, (label, colour) in CURVES.items():
            if any(metric in point.measured for point in points):
                above.plot(*_series(points, metric), color=colour, label=f"{label}{f' ({victim})' if victim else ''}", **style)
        below.plot(*_series(points, "refusal_log_odds"), color="tab:red", **style)
    below.axhline(0, color="grey", linewidth=0.6)
    ticks = [step for step in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if step <= points[-1].step]
    above.set(ylabel="share of prompts", ylim=(-0.03, 1.03), title=title)
    below.set(xlabel="fine-tuning step (log scale)", ylabel="log-odds of refusal")
    below.set_xticks(np.log1p(ticks), [str(step) for step in ticks])


def _series(points: Sequence[Any], metric: str) -> tuple[list[float], list[float]]:
    known = [point for point in points if metric in point.measured]
    return [float(np.log1p(point.step)) for point in known], [point.measured[metric].value for point in known]
