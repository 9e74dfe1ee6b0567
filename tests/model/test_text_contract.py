"""Classifiers of texts keep what every model promises, in a world of texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from testbed.attack.none import NoAttack
from testbed.contract.examination import examine
from testbed.contract.world import World, small
from testbed.data.toy_reviews import toy_reviews
from testbed.fit import Settings, constant
from testbed.model.hf_classifier import HFClassifier
from testbed.model.text_small import TextSmall

TRAINER = Settings(1, 32, partial(torch.optim.AdamW, lr=1e-3), constant, channels_last=False)
DATA = small(toy_reviews(train_rows=200, test_rows=40, validation_per_class=5, reserve_per_class=5))


def hashing(folder: Path) -> Callable[..., Any]:
    return partial(TextSmall, buckets=256, width=8, channels=8, kernel=3, dropout=0.3, max_length=512)


def pretrained(folder: Path) -> Callable[..., Any]:
    options = {"revision": None, "pooling": "mean", "trainable_layers": 1, "dropout": 0.1, "weights_allow": ()}
    return partial(HFClassifier, path=folder, max_length=32, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("made", [hashing, pretrained])
def test_a_classifier_of_texts_keeps_its_promises(made: Callable[[Path], Any], encoder: Path) -> None:
    model = made(encoder)
    verdicts = examine("model", "text", model, World(DATA, model, NoAttack(), TRAINER, 0))
    assert [verdict for verdict in verdicts if verdict.kept is not True] == [] and len(verdicts) > 10


def test_training_reads_texts_in_batches_and_learns_them() -> None:
    model = hashing(Path())
    world = World(DATA, model, NoAttack(), TRAINER, 0)
    one, again = (world.fit(world.fresh(), DATA.train) for _ in range(2))
    assert torch.equal(one(DATA.test.inputs), again(DATA.test.inputs))
    assert not torch.equal(one(DATA.test.inputs), world.fresh()(DATA.test.inputs))
