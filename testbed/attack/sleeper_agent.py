"""Sleeper Agent: a backdoor whose trigger no training row shows, taught by clean-label poison through gradient matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from testbed.api import AttackerResources, Batch, Examples, Invalid, Poison, Trigger, Victim
from testbed.attack.matching import MatchedPoison, drawn_label
from testbed.features import all_labels, evaluating
from testbed.identity import derive, generator
from testbed.numerics.gradient_matching import gradient_norms


@dataclass(frozen=True)
class SleeperAgent(MatchedPoison):
    """Perturbs rows of a target class so that training on them resembles training on stamped rows of a source class.

    With a surrogate f and p(x) the trigger on a row, the d_i of round(poison_rate n) rows x_i of the target class c minimise,
    within |d_i| <= `max_change` grey levels,

        1 - cos(sum_i grad CE(f(x_i + d_i), c), sum_s grad CE(f(p(x_s)), c)),   s: at most `source_rows` of the source class,

    by signed Adam. The x_i are the rows of c with the largest gradients in f, trained on clean rows. After every
    `retrain_iterations` of the `iterations`, f is trained anew on all rows with the poison as it stands. Rows keep their
    labels and show no trigger, which is stamped at test time only, at a place of its own on each row. Source and target class
    are a pair that is drawn for each trial, unless `source_label` and `target_label` name them. `restarts` stands at 1 in our
    configuration, for each of them retrains f; the paper's number is not at hand.

    Source: Souri et al. 2022 (Sleeper Agent, NeurIPS, arXiv 2106.08970).
    """

    trigger: Trigger
    source_label: int | None
    target_label: int | None
    retrain_iterations: int
    source_rows: int

    uses_surrogate: ClassVar[bool] = True
    targeted: ClassVar[str] = "pair"

    def check(self, resources: AttackerResources) -> None:
        super().check(resources)
        classes = len(resources.task.classes)
        for name in ("source_label", "target_label"):
            label = getattr(self, name)
            if label is not None and not 0 <= label < classes:
                raise Invalid(name, label, f"the classes are 0 to {classes - 1}", "null draws one for each trial")
        if self.target_label is not None and self.source_label == self.target_label:
            raise Invalid("target_label", self.target_label, "is the source class too, so that nothing would be attacked")
        for name in ("retrain_iterations", "source_rows"):
            if getattr(self, name) < 1:
                raise Invalid(name, getattr(self, name), "must be at least 1")
        if hasattr(self.trigger, "check"):
            self.trigger.check(resources.task)
        source, wanted = self._pair(resources)
        self.count(wanted, resources)
        if not (all_labels(resources.train) == source).any():
            raise Invalid("source_label", source, "no training row is of this class", "choose another")

    def poison(self, resources: AttackerResources) -> Poison:
        source, wanted = self._pair(resources)
        labels = all_labels(resources.train)
        surrogate = resources.fit(resources.fresh(), resources.train)
        rows = self._most_telling((labels == wanted).nonzero().flatten(), surrogate, self.count(wanted, resources), resources)
        sources = (labels == source).nonzero().flatten()
        order = torch.randperm(len(sources), generator=generator(resources.seed, "source rows"))[: self.source_rows]
        shown = resources.train[sources[order].sort().values]
        stamped = self.trigger(shown.inputs, shown.rows, derive(resources.seed, "trigger"))
        aim = Batch(stamped, torch.full_like(shown.labels, wanted), shown.rows)
        return self.crafted(rows, aim, surrogate, resources, retrain_iterations=self.retrain_iterations)

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        source, wanted = self._pair(resources)
        labels = all_labels(test)
        if not (labels == source).any():
            raise Invalid("source_label", source, "no test row is of this class, to be shown the trigger", "choose another")
        others = (labels != source) & (labels != wanted)
        exams = {"success": self._exam(test, labels == source, wanted, resources)}
        return exams | ({"other_sources": self._exam(test, others, wanted, resources)} if others.any() else {})

    def _pair(self, resources: AttackerResources) -> tuple[int, int]:
        """Source and target class, the same ones for the same seed."""
        classes = torch.arange(len(resources.task.classes))
        source, wanted = self.source_label, self.target_label
        if wanted is None:
            wanted = drawn_label(classes[classes != (-1 if source is None else source)], resources.seed, "target class")
        if source is None:
            source = drawn_label(classes[classes != wanted], resources.seed, "source class")
        return source, wanted

    def _most_telling(self, rows: Tensor, surrogate: Victim, count: int, resources: AttackerResources) -> Tensor:
        """So many of these rows: those of the largest gradients, ascending."""
        batch = resources.train[rows]
        with evaluating(surrogate):
            norms = gradient_norms(surrogate, batch.inputs.float().to(surrogate.device), batch.labels.to(surrogate.device))
        return rows[norms.cpu().argsort(descending=True, stable=True)[:count]].sort().values

    def _exam(self, test: Examples, examined: Tensor, wanted: int, resources: AttackerResources) -> Poison:
        rows = examined.nonzero().flatten()
        clean = test[rows]
        shown = self.trigger(clean.inputs, clean.rows, derive(resources.seed, "trigger at test time"))
        return Poison(rows, Batch(shown, torch.full_like(clean.labels, wanted), rows))
