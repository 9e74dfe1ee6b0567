"""Training: order, copies, divergence, batches."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st

from testbed.api import Diverged, ImageTask, Invalid
from testbed.data.memory import MemoryExamples
from testbed.fit import BatchPlan, Settings, constant, cosine, fit, one_cycle
from testbed.identity import weights_digest
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN

TASK = ImageTask("images", ("a", "b"), shape=(1, 16, 16), augmentation="crop")
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
SETTINGS = Settings(max_epochs=2, batch_size=16, optimiser=SGD, schedule=partial(one_cycle), threads=1)


def examples(n: int) -> MemoryExamples:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    inputs = torch.randint(0, 100, (n, 1, 16, 16), generator=generator, dtype=torch.uint8)
    inputs[labels == 1] += 100
    return MemoryExamples(inputs, labels)


def victim() -> ImageVictim:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ImageVictim(TASK, partial(SmallCNN, width=2))


def test_training_is_a_function_of_victim_rows_settings_and_seed() -> None:
    state = torch.random.get_rng_state()
    untrained = victim()
    before = weights_digest(untrained)
    one, curve = fit(untrained, examples(40), settings=SETTINGS, seed=1)
    again, same_curve = fit(victim(), examples(40), settings=SETTINGS, seed=1, validation=examples(10))
    assert weights_digest(one) == weights_digest(again)  # measuring every epoch disturbs nothing
    assert [row["loss"] for row in curve] == [row["loss"] for row in same_curve]
    assert all(0 <= row["validation_accuracy"] <= 1 for row in same_curve) and len(curve) == 2
    assert weights_digest(fit(victim(), examples(40), settings=SETTINGS, seed=2)[0]) != weights_digest(one)
    assert weights_digest(untrained) == before and not one.training
    assert torch.equal(torch.random.get_rng_state(), state)


@given(n=st.integers(2, 100), batch_size=st.integers(2, 40), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_every_row_once_an_epoch_and_never_a_batch_of_one(n: int, batch_size: int, seed: int, epoch: int) -> None:
    plan = BatchPlan(examples(n), batch_size, seed, torch.device("cpu"))
    plan.epoch = epoch
    sizes = [len(batch.rows) for batch in plan]
    rows = torch.cat([batch.rows for batch in plan])
    assert rows.sort().values.tolist() == list(range(n)) and len(sizes) == len(plan)
    assert min(sizes) >= 2 and max(sizes) <= batch_size + 1


def test_a_last_batch_of_one_row_trains_with_batch_normalisation() -> None:
    fit(victim(), examples(33), settings=SETTINGS, seed=0)  # 16 + 16 + 1


def test_a_victim_that_wants_no_gradient_is_trained_already() -> None:
    trained = victim().requires_grad_(False)
    same, curve = fit(trained, examples(40), settings=SETTINGS, seed=1)
    assert same is not trained and weights_digest(same) == weights_digest(trained) and curve == [] and not same.training


def test_a_loss_that_is_not_finite_is_no_score() -> None:
    def loss(model, batch):
        return model.loss(batch) * (math.nan if 0 in batch.rows else 1.0)

    with pytest.raises(Diverged, match=r"the loss was nan at step \d"):
        fit(victim(), examples(64), settings=SETTINGS, seed=0, loss=loss)


def test_exploding_weights_are_no_score_either() -> None:
    wild = replace(SETTINGS, optimiser=partial(torch.optim.SGD, lr=1e30), schedule=partial(constant))
    with pytest.raises(Diverged):
        fit(victim(), examples(64), settings=wild, seed=0)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(Invalid, match="1 rows are left to train on"):
        fit(victim(), examples(2).take(torch.tensor([0])), settings=SETTINGS, seed=0)


def test_options_of_a_defence_win() -> None:
    seen: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    slow = partial(torch.optim.SGD, lr=1e-3)
    flat = replace(SETTINGS, schedule=partial(constant))
    fit(victim(), examples(32), settings=flat, seed=0, epochs=3, optimiser=slow, callbacks=[Watch()])
    assert seen == [1e-3] * 6


@given(st.floats(0, 0.999))
def test_schedules_are_factors(done: float) -> None:
    assert 0 <= one_cycle(done) <= 1 and 0 <= cosine(done) <= 1 and constant(done) == 1
    assert one_cycle(0.25) == pytest.approx(1) and one_cycle(0) == pytest.approx(1 / 25) and cosine(0) == 1
