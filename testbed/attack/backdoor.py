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

    With `clean_label` only rows of the target class are stamped. `include_target_class` lets rows of the target
    class be drawn too, where stamping changes no label. `append` adds stamped copies instead of replacing. With
    `after_augmentation` the attacker controls training and stamps there. Unless `rounded`, stamped rows stay float32, which no
    stored image could. `test_trigger` is shown at test time where it is not the trigger that was trained on. Besides,
    round(cover_rate n) *cover* rows are stamped likewise and keep their label: they teach that the trigger alone decides
    nothing. They are drawn from the classes `cover_labels`; where none is named, as the poisoned ones are, or of a
    source-specific label from all classes that are neither source nor target. `adapted_to` names the detectors or defences that
    a recipe was made against.

    Of a source-specific label the near misses are the exams 'cover_sources', rows of the classes that cover was drawn from, and
    'other_sources', rows of those that are neither source nor target and that training never showed under the trigger.

    Source: Gu et al. 2017, arXiv 1708.06733; Chen et al. 2017, arXiv 1712.05526; cover rows: Qi et al. 2023 (ICLR 2023).
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
    cover_rate: Annotated[float, "give a share of the rows, between 0 and 1"] = 0.0
    cover_labels: tuple[int, ...] = ()
    adapted_to: tuple[str, ...] = ()

    def check(self, resources: AttackerResources) -> None:
        if resources.task.kind != "images":
            raise Unsupported(f"needs images, not {resources.task.kind}")
        classes = len(resources.task.classes)
        for name, rate in (("poison_rate", self.poison_rate), ("cover_rate", self.cover_rate)):
            if not 0 <= rate <= 1:
                raise Invalid(name, rate, "must lie between 0 and 1")
        if self.cover_rate and self.clean_label:
            raise Invalid("cover_rate", self.cover_rate, "clean-label poison keeps its labels too", "say attack.cover_rate=0")
        self.label.check(self.target_label, classes)
        self._check_cover(classes)
        if self.clean_label and isinstance(self.label, AllToAll):
            raise Invalid(
                "clean_label", True, "no row already has the label that all-to-all wants", "say attack.clean_label=false"
            )
        for trigger in (self.trigger, self.test_trigger):
            if hasattr(trigger, "check"):
                trigger.check(resources.task)
        self._chosen(resources)

    def poison(self, resources: AttackerResources) -> Poison:
        rows, cover = self._chosen(resources)
        clean = resources.train[rows]
        wanted = self.label(clean.labels, self.target_label, len(resources.task.classes))
        answers = torch.where(cover, clean.labels, wanted)
        stamped = (
            clean.inputs if self.after_augmentation else self._stamp(self.trigger, clean, derive(resources.seed, "trigger"))
        )
        indices = len(resources.train) + torch.arange(len(rows)) if self.append else rows
        return Poison(indices, Batch(stamped, answers, rows), cover if cover.any() else None)

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        labels, classes = all_labels(test), len(resources.task.classes)
        wanted = self.label(labels, self.target_label, classes)
        if torch.equal(wanted, labels):
            name, value = self._attacked
            raise Invalid(name, value, "no test row is of a class that the trigger shall change", "choose other classes")
        exams = {"success": self._exam(test, wanted != labels, wanted, resources)}
        for name, near in self._near_misses(classes).items():
            if (shown := _of_classes(labels, near)).any():
                exams[name] = self._exam(test, shown, torch.full_like(labels, self.target_label), resources)
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

    def _check_cover(self, classes: int) -> None:
        if not all(0 <= label < classes for label in self.cover_labels):
            raise Invalid("cover_labels", list(self.cover_labels), f"the classes are 0 to {classes - 1}")
        sources = self.label.source_labels if isinstance(self.label, SourceSpecific) else ()
        attacked = set() if isinstance(self.label, AllToAll) else {self.target_label, *sources}
        if met := sorted(attacked & set(self.cover_labels)):
            limit = f"{met[0]} is {'a source class' if met[0] in sources else 'the target class'}, whose rows are no cover"
            raise Invalid("cover_labels", list(self.cover_labels), limit, f"leave {met[0]} out")
        if self.cover_rate and self._covered(classes) == ():
            limit = f"all {classes} classes are source or target, so that none is left for cover"
            raise Invalid("cover_rate", self.cover_rate, limit, "say attack.cover_rate=0")

    @property
    def _attacked(self) -> tuple[str, int | list[int]]:
        """The parameter that says which classes the trigger shall change, and its value."""
        if isinstance(self.label, SourceSpecific):
            return "label.source_labels", list(self.label.source_labels)
        return "target_label", self.target_label

    def _covered(self, classes: int) -> tuple[int, ...] | None:
        """The classes that cover is drawn from; None: as the poisoned rows are."""
        if self.cover_labels or not isinstance(self.label, SourceSpecific):
            return self.cover_labels or None
        return self.label.others(self.target_label, classes)

    def _near_misses(self, classes: int) -> dict[str, tuple[int, ...]]:
        """The classes by exam that a source-specific trigger shall leave as they are."""
        if not isinstance(self.label, SourceSpecific):
            return {}
        covered = (self._covered(classes) or ()) if self.cover_rate else ()
        others = self.label.others(self.target_label, classes)
        return {"cover_sources": covered, "other_sources": tuple(label for label in others if label not in covered)}

    def _chosen(self, resources: AttackerResources) -> tuple[Tensor, Tensor]:
        """Rows to stamp, int64 (round(poison_rate n) + round(cover_rate n),), ascending; bool, which of them are cover."""
        labels = all_labels(resources.train)
        wanted = self.label(labels, self.target_label, len(resources.task.classes))
        fit = labels == self.target_label if self.clean_label else labels != wanted
        if self.include_target_class:
            fit = fit | (labels == self.target_label)
        sizes = torch.bincount(labels, minlength=len(resources.task.classes)).tolist()
        order = _shuffled(fit, generator(resources.seed, "rows"))
        poisoned = self._first(order, "poison_rate", sizes)
        rest = order[len(poisoned) :]
        covered = self._covered(len(resources.task.classes))
        if covered is not None:
            others = _of_classes(labels, covered).index_fill(0, poisoned, False)
            rest = _shuffled(others, generator(resources.seed, "cover rows"))
        rows, places = torch.cat([poisoned, self._first(rest, "cover_rate", sizes)]).sort()
        return rows, places >= len(poisoned)

    def _first(self, order: Tensor, name: str, sizes: list[int]) -> Tensor:
        """The first round(rate n) of these rows, int64, where the rate has this name."""
        total, rate = sum(sizes), getattr(self, name)
        asked = round(rate * total)
        if rate > 0 and asked == 0:
            advice = f"raise it, or say {'attack=none' if name == 'poison_rate' else '0'}"
            raise Invalid(name, rate, f"{rate} x {total} training rows rounds to 0 rows", advice)
        if asked > len(order):
            limit = f"needs {asked} rows, but only {len(order)} of {total} may be poisoned (class sizes {sizes})"
            raise Invalid(name, rate, limit, f"at most {len(order) / total:.4g} works here")
        return order[:asked]

    def _exam(self, test: Examples, examined: Tensor, wanted: Tensor, resources: AttackerResources) -> Poison:
        rows = examined.nonzero().flatten()
        shown = self._stamp(self.test_trigger or self.trigger, test[rows], derive(resources.seed, "trigger at test time"))
        return Poison(rows, Batch(shown, wanted[rows], rows))

    def _stamp(self, trigger: Trigger, clean: Batch, seed: int) -> Tensor:
        return trigger(clean.inputs if self.rounded else clean.inputs.float(), clean.rows, seed)


def _of_classes(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """bool (n,): which rows are of these classes."""
    return torch.isin(labels, torch.tensor(classes, dtype=torch.int64))


def _shuffled(chosen: Tensor, draw: torch.Generator) -> Tensor:
    """The places of a bool (n,) that are chosen, int64, in an order that is drawn."""
    places = chosen.nonzero().flatten()
    return places[torch.randperm(len(places), generator=draw)]
