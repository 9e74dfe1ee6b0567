"""Pictures in a run folder: what the attacker shows, what a detector scored, what was reconstructed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from testbed.api import Examples, Poison

SHOWN = 8
DIFFERENCE_SCALE = 4


def draw_gallery(folder: Path, test: Examples, exams: Mapping[str, Poison]) -> None:
    """For each exam, some rows as they are, as the attacker shows them, and the difference (images: four times enlarged)."""
    for name, exam in exams.items():
        rows = torch.linspace(0, len(exam.indices) - 1, min(SHOWN, len(exam.indices))).long()
        clean = test[exam.indices[rows]].inputs
        if isinstance(clean, Tensor):
            shown = exam.batch.inputs[rows].float()
            difference = (128 + DIFFERENCE_SCALE * (shown - clean)).clamp(0, 255)
            save_images(folder / "figures" / f"{name}.png", torch.cat([clean.float(), shown, difference]), columns=len(rows))
        else:
            pairs = [{"clean": one, "shown": exam.batch.inputs[row]} for one, row in zip(clean, rows.tolist(), strict=True)]
            _into(folder / "figures" / f"{name}.json").write_text(
                json.dumps(pairs, indent=1, ensure_ascii=False), encoding="utf-8"
            )


def draw_triggers(folder: Path, name: str, triggers: Any) -> None:
    """Reconstructed triggers that are images: one a class, masks above patterns above what they add."""
    if triggers is None or not hasattr(triggers, "masks"):
        return
    masks = triggers.masks.float().cpu().expand_as(triggers.patterns.cpu())
    patterns = triggers.patterns.float().cpu()
    save_images(folder / "figures" / f"{name}.png", torch.cat([255 * masks, patterns, masks * patterns]), columns=len(masks))


def draw_detection(folder: Path, prefix: str, scores: Tensor, suspicious: Tensor) -> None:
    """Histogram of the scores of clean and suspicious rows, and the ROC curve with a logarithmic false-positive axis."""
    import matplotlib as mpl  # a second to import: only where something is drawn

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    bins = np.histogram_bin_edges(scores.numpy(), bins=40)
    for label, chosen, colour in (("clean", ~suspicious, "tab:blue"), ("poisoned", suspicious, "tab:red")):
        if chosen.any():
            shown = f"{label} (n = {int(chosen.sum())})"
            left.hist(scores[chosen].numpy(), bins=bins, density=True, alpha=0.6, label=shown, color=colour)
    left.set(xlabel="score, higher is more suspicious", ylabel="density")
    left.legend()
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
    figure.savefig(_into(folder / "figures" / f"{prefix}scores.png"), dpi=110)
    pyplot.close(figure)


def save_images(path: Path, images: Tensor, columns: int, least_width: int = 64) -> None:
    """float (n, C, H, W) in 0..255 as one PNG grid, each image enlarged to `least_width` pixels or more."""
    from torchvision.utils import make_grid

    scale = max(1, least_width // images.shape[-1])
    grid = make_grid(images.repeat_interleave(scale, 2).repeat_interleave(scale, 3), nrow=max(columns, 1), pad_value=255)
    Image.fromarray(grid.clamp(0, 255).byte().permute(1, 2, 0).numpy()).save(_into(path))


def _into(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
