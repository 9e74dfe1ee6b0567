"""A sequence classifier of Hugging Face's kind as a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from testbed.api import Invalid
from testbed.judge.local import compare_labels, encoded, loaded, parts, require_folder, require_labels, specials
from testbed.judge.template import Reading


@dataclass(frozen=True, kw_only=True)
class HfClassifier(Reading):
    """The model in the folder `path` classifies prompt and reply; `labels` maps each of its labels to an outcome.

    Weights are read from safetensors only, and code that comes with them is never run.
    """

    path: Path
    labels: Mapping[str, str]
    batch_size: int
    device: str | None

    meaningless: ClassVar[tuple[str, ...]] = ("batch_size", "device")

    @property
    def tells(self) -> frozenset[str]:  # type: ignore[override]
        """What its labels stand for."""
        return frozenset({*self.labels.values(), "empty"})

    def check(self, resources: Any) -> None:
        """Raises `Invalid`: no such model, a label of it that stands for nothing, or one that it has not."""
        super().check(resources)
        if self.batch_size < 1:
            raise Invalid("batch_size", self.batch_size, "must be at least 1", component="judge")
        self.require_outcomes("labels", self.labels.values())
        require_folder(self.path)
        require_labels(self.path, self.labels)

    def specials(self) -> Sequence[str]:
        return specials(self._model[0])

    @torch.no_grad()
    def judged(self, texts: Sequence[str]) -> list[str]:
        tokenizer, model = self._model
        numbers: list[int] = []
        for part in parts(texts, self.batch_size):
            numbers += model(**encoded(tokenizer, model, part)).logits.argmax(-1).tolist()
        return [self.labels[model.config.id2label[number]] for number in numbers]

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        """Loaded when it is first asked."""
        tokenizer, model = loaded("AutoModelForSequenceClassification", self.path, self.device)
        compare_labels(model.config.id2label.values(), self.labels)  # what the library makes of the settings counts
        return tokenizer, model
