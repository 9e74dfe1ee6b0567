"""The one test row that a targeted attack is about: drawn for each trial, and all of the test that its attacker ever sees."""

from __future__ import annotations

import torch

from testbed.api import Attack, Batch, Examples, Invalid
from testbed.identity import generator

TARGETED = ("", "row", "pair")


def target_of(attack: Attack, test: Examples, seed: int) -> Batch | None:
    """Of an attack on a row: one that the attacker's seed draws, all being equally likely, with its place in the test."""
    return test[torch.randint(len(test), (1,), generator=generator(seed, "target"))] if attack.targeted == "row" else None


def check_trial(attack: Attack, trial: int) -> None:
    """Refuse a trial of an attack that has none: it would be the same run again under another name."""
    if trial and not attack.targeted:
        limit = f"{type(attack).__name__} is made for no single target, so that it has no trials"
        raise Invalid("trial", trial, limit, "say trial=0, and seed= for further runs")
