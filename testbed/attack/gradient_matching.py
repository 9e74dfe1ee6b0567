"""Witches' Brew: clean-label poison that makes a model misread one chosen image, which itself is never touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from testbed.api import AttackerResources, Batch, Examples, Poison, Unsupported
from testbed.attack.matching import MatchedPoison, drawn_label
from testbed.features import all_labels
from testbed.identity import generator


@dataclass(frozen=True)
class GradientMatching(MatchedPoison):
    """Perturbs rows of the wanted class so that training on them is training to take one target image for that class.

    With a surrogate f that the attacker trains on the clean rows, each of round(poison_rate n) rows x_i of the wanted class c
    moves by |d_i| <= `max_change` grey levels and keeps its label; the d_i minimise

        1 - cos(sum_i grad CE(f(x_i + d_i), c), grad CE(f(target), c)),   gradients in the parameters of f,

    by `iterations` steps of signed Adam from `restarts` random starts, of which the best is kept. The target is a test row that
    is drawn for each trial, c is drawn from the other classes, and so are the rows of c that are poisoned; no other test row is
    seen. There is one surrogate (the paper tries ensembles too). That `step_size`, its 0.1, is a share of the bound is ours.

    Source: Geiping et al. 2021 (Witches' Brew, ICLR, arXiv 2009.02276).
    """

    uses_surrogate: ClassVar[bool] = True
    targeted: ClassVar[str] = "row"

    def check(self, resources: AttackerResources) -> None:
        super().check(resources)
        self.count(self._wanted(resources), resources)

    def poison(self, resources: AttackerResources) -> Poison:
        wanted, target = self._wanted(resources), _target(resources)
        fit = (all_labels(resources.train) == wanted).nonzero().flatten()
        order = torch.randperm(len(fit), generator=generator(resources.seed, "rows"))
        rows = fit[order[: self.count(wanted, resources)]].sort().values
        surrogate = resources.fit(resources.fresh(), resources.train)
        return self.crafted(rows, target._replace(labels=torch.tensor([wanted])), surrogate, resources)

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        target = _target(resources)
        wanted = torch.tensor([self._wanted(resources)])
        return {"success": Poison(target.rows, Batch(target.inputs, wanted, target.rows))}

    def _wanted(self, resources: AttackerResources) -> int:
        """c, the same one for the same seed and target."""
        classes, true = torch.arange(len(resources.task.classes)), _target(resources).labels
        return drawn_label(classes[classes != true], resources.seed, "wanted class")


def _target(resources: AttackerResources) -> Batch:
    if resources.target is None:
        raise Unsupported("needs a target row, and there is none here")
    return resources.target
