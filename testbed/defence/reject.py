"""A detector of triggered queries made into a defence: refuse to answer what it suspects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from testbed.api import (
    Batch,
    Defence,
    DefenderResources,
    Detector,
    Invalid,
    ModelDetector,
    Unsupported,
    Victim,
    Wrapper,
    component,
)
from testbed.defence.filter import require_judge
from testbed.defence.rule import clean_quantile


@dataclass(frozen=True)
class Reject(Defence):
    """Refuses queries that score above what `false_alarm_rate` of the clean reserve exceeds.

    A refused query is a miss in every rate: neither answered correctly nor a success of the attack.

    Source: the use that Gao et al. 2019 (arXiv 1902.06531) make of STRIP.
    """

    detector: Detector | ModelDetector
    false_alarm_rate: float

    def check(self, resources: DefenderResources) -> None:
        if resources.task.kind == "chat":
            raise Unsupported("needs a classifier: a chat model has words to refuse with, and silence is no answer to judge")
        require_judge(self.detector, "queries", "reject")
        with component("detector"):
            self.detector.check(resources)
        if not 0 < self.false_alarm_rate < 1:
            raise Invalid("false_alarm_rate", self.false_alarm_rate, "must lie between 0 and 1, both excluded")
        if len(resources.reserve) < 2:
            raise Invalid(
                "reserve_per_class", len(resources.reserve), "calibration needs clean rows", "raise it", component="data"
            )

    def at_inference(self, victim: Victim, resources: DefenderResources) -> Victim:
        threshold = clean_quantile(self.detector, victim, resources, self.false_alarm_rate)  # type: ignore[arg-type]
        return Rejecting(victim, self.detector, threshold, resources)  # type: ignore[arg-type]


class Rejecting(Wrapper):
    """Answers as `victim` does, but -1 where the detector's score exceeds the threshold."""

    def __init__(self, victim: Victim, detector: Detector, threshold: float, resources: DefenderResources) -> None:
        super().__init__(victim)
        self.detector, self.threshold, self.resources = detector, threshold, resources

    def answers(self, inputs: Any) -> Any:
        scores = self.detector.score(_Queries(inputs), self.victim, self.resources)
        return torch.where((scores > self.threshold).to(self.device), -1, self.victim.answers(inputs))


class _Queries:
    """Inputs whose answers nobody knows, as a data set: every label is -1."""

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, indices: Tensor) -> Batch:
        unknown = torch.full((len(indices),), -1)
        if isinstance(self.inputs, Tensor):
            return Batch(self.inputs[indices.to(self.inputs.device)], unknown, indices)
        return Batch([self.inputs[row] for row in indices.tolist()], unknown, indices)
