"""Backdoor = trigger x which rows x which label. BadNets, Blended and their kin are recipes over this one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from testbed.api import Attack, AttackerResources, Batch, Examples, Invalid, Poison, Trigger, Unsupported, Victim
from testbed.attack.label import AllToAll, AllToOne, SourceSpecific
from testbed.attack.stamping import StampedTraining
from testbed.features import all_labels
from testbed.identity import derive, generator


@dataclass(frozen=True)
class Backdoor(Attack):
    """Stamps round(poison_rate n) of n training rows and gives them the label that the trigger shall evoke.

    With `clean_label` only rows that have the wanted label already are stamped. `include_target_class` lets rows of the target
    class be drawn too, where stamping changes no label. `append` adds stamped copies instead of replacing. With
    `after_augmentation` the attacker controls training and stamps there. Unless `rounded`, stamped rows stay float32, which no
    stored image could. `test_trigger` is shown at test time where it is not the trigger that was trained on.

    Source: Gu et al. 2017, arXiv 1708.06733; Chen et al. 2017, arXiv 1712.05526.
    """

    trigger: Trigger
    label: AllToOne | AllToAll | SourceSpecific
    poison_rate: Annotated[float, "give a share of the rows, between 0 and 1"]
    target_label: int
    clean_label: bool = False
    include_target_class: bool = False
    append: bool = False
    after_augmentation: bool = False
    rounded: bool = True
    test_trigger: Trigger | None = None

    def check(self, resources: AttackerResources) -> None:
        if resources.task.kind != "images":
            raise Unsupported(f"needs images, not {resources.task.kind}")
        classes = len(resources.task.classes)
        if not 0 <= self.poison_rate <= 1:
            raise Invalid("poison_rate", self.poison_rate, "must lie between 0 and 1")
        self.label.check(self.target_label, classes)
        if self.clean_label and isinstance(self.label, AllToAll):
            raise Invalid(
                "clean_label", True, "no row already has the label that all-to-all wants", "say attack.clean_label=false"
            )
        for trigger in (self.trigger, self.test_trigger):
            if hasattr(trigger, "check"):
                trigger.check(resources.task)
        self._chosen(resources)

    def poison(self, resources: AttackerResources) -> Poison:
        rows = self._chosen(resources)
        clean = resources.train[rows]
        wanted = self.label(clean.labels, self.target_label, len(resources.task.classes))
        stamped = (
            clean.inputs if self.after_augmentation else self._stamp(self.trigger, clean, derive(resources.seed, "trigger"))
        )
        indices = len(resources.train) + torch.arange(len(rows)) if self.append else rows
        return Poison(indices, Batch(stamped, wanted, rows))

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        labels = all_labels(test)
        wanted = self.label(labels, self.target_label, len(resources.task.classes))
        exams = {"success": self._exam(test, wanted != labels, wanted, resources)}
        if isinstance(self.label, SourceSpecific):
            others = ~torch.isin(labels, torch.tensor([*self.label.source_labels, self.target_label]))
            exams["other_sources"] = self._exam(test, others, torch.full_like(labels, self.target_label), resources)
        return exams

    def during_training(self, victim: Victim, resources: AttackerResources) -> Victim:
        if not self.after_augmentation:
            return victim
        if resources.positions is None:
            raise Unsupported("stamping after augmentation needs an attacker who controls training")
        return StampedTraining(victim, self.trigger, resources.positions, derive(resources.seed, "trigger"))

    @property
    def controls_training(self) -> bool:
        """Whether this recipe needs the attacker to train the model."""
        return self.after_augmentation

    def _chosen(self, resources: AttackerResources) -> Tensor:
        """Rows to poison, int64 (round(poison_rate n),), ascending."""
        labels = all_labels(resources.train)
        wanted = self.label(labels, self.target_label, len(resources.task.classes))
        fit = labels == wanted if self.clean_label else labels != wanted
        if self.include_target_class:
            fit = fit | (labels == self.target_label)
        eligible, asked = fit.nonzero().flatten(), round(self.poison_rate * len(labels))
        if self.poison_rate > 0 and asked == 0:
            limit = f"{self.poison_rate} x {len(labels)} training rows rounds to 0 rows"
            raise Invalid("poison_rate", self.poison_rate, limit, "raise it, or say attack=none")
        if asked > len(eligible):
            sizes = torch.bincount(labels, minlength=len(resources.task.classes)).tolist()
            limit = f"needs {asked} rows, but only {len(eligible)} of {len(labels)} may be poisoned (class sizes {sizes})"
            raise Invalid("poison_rate", self.poison_rate, limit, f"at most {len(eligible) / len(labels):.4g} works here")
        drawn = torch.randperm(len(eligible), generator=generator(resources.seed, "rows"))[:asked]
        return eligible[drawn].sort().values

    def _exam(self, test: Examples, examined: Tensor, wanted: Tensor, resources: AttackerResources) -> Poison:
        rows = examined.nonzero().flatten()
        shown = self._stamp(self.test_trigger or self.trigger, test[rows], derive(resources.seed, "trigger at test time"))
        return Poison(rows, Batch(shown, wanted[rows], rows))

    def _stamp(self, trigger: Trigger, clean: Batch, seed: int) -> Tensor:
        return trigger(clean.inputs if self.rounded else clean.inputs.float(), clean.rows, seed)
