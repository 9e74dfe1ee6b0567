"""What a victim says to every row, and what of the clean reserve belongs to which class."""

from __future__ import annotations

import torch
from torch import Tensor

from testbed.api import DefenderResources, Examples, Invalid, Victim
from testbed.detector.requirement import reserve_setting
from testbed.features import all_labels, batches, evaluating, on_device


@torch.no_grad()
def logits_of(victim: Victim, examples: Examples, *, batch_size: int = 256) -> Tensor:
    """float32 (n, K) on the CPU: the victim's logits on unaugmented rows, in evaluation mode."""
    with evaluating(victim):
        parts = [victim(on_device(batch.inputs, victim.device)).float().cpu() for batch in batches(examples, batch_size)]
    return torch.cat(parts)


def require_rows_of_each_class(resources: DefenderResources, at_least: int) -> None:
    """Raises `Invalid` where the clean reserve has fewer than `at_least` rows of some class."""
    kinds, classes = resources.fresh().kinds(all_labels(resources.reserve)), resources.task.classes
    counts = kinds.bincount(minlength=len(classes))[: len(classes)]
    if int(counts.min()) < at_least:
        short = f"of class {classes[int(counts.argmin())]}"
        limit = f"at least {at_least} clean rows of each class"
        raise Invalid(reserve_setting(resources.task), f"{int(counts.min())} {short}", limit, "raise it", "data")
