"""Backdoor on fixed rows whose cover rows show another trigger than the poison: WaNet without control of training."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.api import AttackerResources, Examples, Invalid, Poison, Trigger
from testbed.attack.backdoor import Backdoor
from testbed.identity import derive


@dataclass(frozen=True)
class NoisyCover(Backdoor):
    """`Backdoor`, but cover rows are stamped by `cover_trigger`, a near miss of the trigger, and keep their label.

    The exam 'noise' shows that near miss and asks for the attacker's label: it should fail.

    Source: the noise mode of Nguyen and Tran 2021, arXiv 2102.10369, on rows that are poisoned once and for all. That is
    another attack than the paper's, which draws rows anew for every batch and for which the attacker has to train the model.
    """

    cover_trigger: Trigger | None = None

    def check(self, resources: AttackerResources) -> None:
        super().check(resources)
        if self.after_augmentation:
            raise Invalid("after_augmentation", True, "cover is stamped beforehand", "attack=wanet controls training")
        check = getattr(self.cover_trigger, "check", None)
        if check is not None:
            check(resources.task)

    def poison(self, resources: AttackerResources) -> Poison:
        poison = super().poison(resources)
        if poison.cover is None or self.cover_trigger is None:
            return poison
        shown, covered = poison.batch.inputs.clone(), resources.train[poison.batch.rows[poison.cover]]
        shown[poison.cover] = self._stamp(self.cover_trigger, covered, derive(resources.seed, "cover trigger"))
        return poison._replace(batch=poison.batch._replace(inputs=shown))

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        exams = super().triggered_tests(test, resources)
        if self.cover_trigger is None:
            return exams
        success = exams["success"]
        seed = derive(resources.seed, "cover trigger at test time")
        shown = self._stamp(self.cover_trigger, test[success.indices], seed)
        return {**exams, "noise": success._replace(batch=success.batch._replace(inputs=shown))}
