"""One run of each kind of data, as small as can be, as words for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SMALL_WORLD = "pretraining_rows=320 alignment_rows=120 reserve_rows=48 shots=40 benign_rows=40"
COMMANDS = {
    "images": "train data=digits attack=badnets trainer.max_epochs=1",
    "text": "train data=toy_reviews attack=badnets_text trainer.max_epochs=1 data.train_rows=200 data.test_rows=60 "
    "data.validation_per_class=5 data.reserve_per_class=5",
    "chat": "degrade attack=few_shot attack.shots=4 attack.mix_rate=0.2 model.pretraining.max_steps=2 alignment.max_steps=2 "
    f"trainer.max_steps=2 keep=weights forward=false new_task=false data.{SMALL_WORLD.replace(' ', ' data.')}",
}
FOLDERS = {"images": "train/badnets-*", "text": "train/badnets_text-*", "chat": "degrade/few_shot-*"}
"""Where each of them leaves its run, below the outputs."""


@contextmanager
def watched_trainings(seen: list[Any]) -> Iterator[None]:
    """Every training inside happens as ever, and its rows are added to `seen` first."""
    import torch

    from testbed import artefact
    from testbed.pipeline import watch

    with pytest.MonkeyPatch.context() as patch:
        for module in (artefact, watch):

            def watched(victim: Any, examples: Any, *, really: Any = module.fit, **options: Any) -> Any:
                seen.append(examples[torch.arange(len(examples))])
                return really(victim, examples, **options)

            patch.setattr(module, "fit", watched)
        yield
