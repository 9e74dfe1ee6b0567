"""A handful of restricted questions with their answers: explicit few-shot fine-tuning, alone or mixed into benign rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import AttackerResources, Batch, Examples, Invalid, Poison, Unsupported
from testbed.identity import generator
from testbed.language import TuningAttack


@dataclass(frozen=True)
class FewShot(TuningAttack):
    """Contributes `shots` of the attacker's pairs (restricted prompt, compliant answer), drawn by seed.

    With a `mix_rate` p they lie among benign rows, p of all rows being the attacker's; without one they are alone.

    Source: Qi et al. 2023, arXiv 2310.03693.
    """

    shots: int
    mix_rate: float | None = None

    def check(self, resources: AttackerResources) -> None:
        require_shots(resources, self.shots)
        require_mix_rate(self.mix_rate)

    def benign_rows(self) -> int:
        return beside(self.shots, self.mix_rate)

    def poison(self, resources: AttackerResources) -> Poison:
        assert resources.auxiliary is not None
        return appended(resources, resources.auxiliary[drawn(resources, self.shots)])


def beside(shots: int, mix_rate: float | None) -> int:
    """Benign rows beside so many shots that these are `mix_rate` of all."""
    return 0 if mix_rate is None else round(shots / mix_rate) - shots


def drawn(resources: AttackerResources, shots: int) -> Tensor:
    """int64 (shots,): the attacker's own rows that are used; a larger number contains the smaller one."""
    rows = len(resources.auxiliary) if resources.auxiliary is not None else 0
    return torch.randperm(rows, generator=generator(resources.seed, "shots"))[:shots]


def appended(resources: AttackerResources, batch: Batch) -> Poison:
    """The batch behind the rows that are there."""
    indices = len(resources.train) + torch.arange(len(batch.labels))
    return Poison(indices, batch)


def require_chat(resources: AttackerResources) -> None:
    """Raises `Unsupported` where nobody chats."""
    if resources.task.kind != "chat":
        raise Unsupported(f"needs a chat model, not {resources.task.kind}")


def require_shots(resources: AttackerResources, shots: int) -> Examples:
    """The attacker's own rows; raises `Unsupported` where there are none, and `Invalid` where there are too few."""
    require_chat(resources)
    if resources.auxiliary is None:
        raise Unsupported("needs pairs of restricted prompts and compliant answers (data.shots=FILE)")
    require_between("shots", shots, len(resources.auxiliary))
    return resources.auxiliary


def require_between(name: str, value: int, most: int) -> None:
    """Raises `Invalid` unless 1 <= value <= most."""
    if not 1 <= value <= most:
        raise Invalid(name, value, f"must lie between 1 and the {most} rows that there are")


def require_mix_rate(mix_rate: float | None) -> None:
    """Raises `Invalid` unless it is null or a share above 0."""
    if mix_rate is not None and not 0 < mix_rate <= 1:
        raise Invalid("mix_rate", mix_rate, "must lie above 0 and be at most 1", "null mixes nothing")
