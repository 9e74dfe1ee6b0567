"""Attention maps against loops, and which layers and weights a student is taught by."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from testbed.api import Invalid, Unsupported
from testbed.data.memory import MemoryExamples
from testbed.defence.nad import Distillation, NeuralAttentionDistillation, at_rest, attended
from testbed.identity import weights_digest
from testbed.model.image import ImageVictim
from testbed.model.preact_resnet18 import PreActResNet18
from testbed.numerics.attention import attention_distance, attention_map
from tests.defence.small_images import LARGER, RESOURCES, SGD, TEXTS, TRANSFORMER, images, trained, untrained

NAD = NeuralAttentionDistillation((500.0, 1000.0, 1000.0), 2.0, 1, 1, SGD)


def test_attention_is_where_the_channels_are_large() -> None:
    one, other = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for first, second in zip(one, other, strict=True):
        maps = [sum(channel.abs() ** 2 for channel in part) / 3 for part in (first, second)]
        total += float(
            (maps[0] / maps[0].square().sum().sqrt() - maps[1] / maps[1].square().sum().sqrt()).square().sum().sqrt()
        )
    assert float(attention_distance(one, other)) == pytest.approx(total / 2, rel=1e-5)
    assert attention_distance(one, 3 * one) < 1e-6 and not attention_map(torch.zeros(1, 2, 3, 3)).any()


def test_the_last_stage_at_each_resolution_counts_and_the_last_betas() -> None:
    assert attended(untrained(), RESOURCES.reserve) == ("stage1", "stage2", "stage3")
    assert NAD._weights(("a", "b")) == {"a": 1000.0, "b": 1000.0}
    assert NAD._weights(("a", "b", "c", "d")) == {"b": 500.0, "c": 1000.0, "d": 1000.0}
    with torch.random.fork_rng():
        residual = ImageVictim(LARGER, partial(PreActResNet18, width=4))
    black = MemoryExamples(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    assert residual.layers == ("conv1", "layer1", "layer2", "layer3", "layer4", "bn", "penultimate")
    assert attended(residual, black) == ("layer1", "layer2", "layer3", "bn")


def test_the_students_loss_is_its_own_and_the_distances() -> None:
    teacher, student, batch = trained(untrained(), images(30, 5)), untrained().eval(), images(8, 6)[torch.arange(8)]
    weights = {"stage1": 2.0, "stage3": 3.0}
    distances = {
        name: attention_distance(*(v.features(batch.inputs, name) for v in (student, teacher)), 3.0) for name in weights
    }
    expected = student.loss(batch) + 2 * distances["stage1"] + 3 * distances["stage3"]
    taught = Distillation(teacher.requires_grad_(False), weights, 3.0)
    assert torch.allclose(taught(student, batch), expected)
    weight = student.net.stage1[0].weight  # type: ignore[union-attr,index]
    alone, drawn = (
        torch.autograd.grad(loss(), weight)[0] for loss in (lambda: student.loss(batch), lambda: taught(student, batch))
    )
    assert not torch.allclose(alone, drawn)


def test_without_weights_it_is_fine_tuning() -> None:
    victim = trained(untrained(), images(60, 3))
    before = weights_digest(victim)
    plain = replace(NAD, betas=(0.0,)).after_training(victim, RESOURCES)
    assert weights_digest(plain) == weights_digest(trained(victim, RESOURCES.reserve, epochs=1))
    assert weights_digest(NAD.after_training(victim, RESOURCES)) != weights_digest(plain)
    assert weights_digest(victim) == before


def test_the_teacher_is_the_victim_fine_tuned_and_attention_has_the_power_asked_for() -> None:
    victim = trained(untrained(), images(60, 3))
    teacher = trained(victim, RESOURCES.reserve, epochs=2).eval().requires_grad_(False)
    loss = Distillation(teacher, {"stage1": 500.0, "stage2": 1000.0, "stage3": 1000.0}, 3.0)
    taught = replace(NAD, teacher_epochs=2, power=3.0).after_training(victim, RESOURCES)
    assert weights_digest(taught) == weights_digest(trained(victim, RESOURCES.reserve, epochs=1, loss=loss))


def test_running_statistics_rest_while_layers_are_read() -> None:
    victim = untrained().train()
    before = weights_digest(victim)
    with at_rest(victim):
        victim.features(images(8, 1).inputs, "stage1")
    counted = {name: value for name, value in victim.state_dict().items() if "running" in name}
    assert all(torch.equal(value, untrained().state_dict()[name]) for name, value in counted.items())
    victim.features(images(8, 1).inputs, "stage1")
    assert weights_digest(victim) != before


def test_what_cannot_work_is_refused() -> None:
    for resources in (TRANSFORMER, replace(TEXTS, fresh=TRANSFORMER.fresh)):
        with pytest.raises(Unsupported):
            NAD.check(resources)
    for wrong in ({"betas": ()}, {"betas": (-1.0,)}, {"power": 0.0}, {"epochs": 0}, {"teacher_epochs": 0}):
        with pytest.raises(Invalid):
            replace(NAD, **wrong).check(RESOURCES)
    NAD.check(RESOURCES)
