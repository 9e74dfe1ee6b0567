"""The maximum margin against a model of which it is known, and the p-value against its exact level under the null."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from testbed.api import Invalid, Unsupported
from testbed.detector.mm_bd import MMBD, log10_p, margin
from testbed.identity import generator

CLASSES = 10


@pytest.fixture(scope="module")
def victim(linear_victim):
    """Class c likes column c of a 10 x 10 image; the last class likes its own ten times as much."""
    weights = torch.zeros(CLASSES, 1, 10, 10)
    for label in range(CLASSES):
        weights[label, 0, :, label] = 0.01 if label < CLASSES - 1 else 0.1
    return linear_victim(weights.flatten(1))


def _resources(defender, victim, rows, classes=CLASSES, **more):
    resources = defender(victim, rows(torch.zeros(1, 1, 10, 10, dtype=torch.uint8)), classes=classes, **more)
    object.__setattr__(resources.task, "shape", (1, 10, 10))
    return resources


def test_the_margin_is_the_greatest_there_is(victim, rows, defender):
    """Of a linear model: own column white, all others black, so that r_c = 255 * 10 * weight."""
    resources = _resources(defender, victim, rows)
    margins = MMBD(restarts=2, steps=400).margins(victim, resources.task, generator(resources.seed, "maximum margin"))
    assert margins.tolist() == pytest.approx([25.5] * 9 + [255.0], rel=1e-2)
    found = MMBD(restarts=2, steps=400).inspect(victim, resources)
    assert found.flagged == (9,) and int(found.scores.argmax()) == 9
    ratio = float(margins[9] / margins[:9].mean())
    assert 10 ** -float(found.scores[9]) == pytest.approx(1 - (1 - math.exp(-ratio)) ** CLASSES, rel=1e-2)
    assert found.absolute.exp().tolist() == pytest.approx(margins.tolist(), rel=1e-3)
    assert victim.weights.requires_grad and victim.weights.grad is None


@pytest.mark.parametrize(("ratio", "flagged"), [(4.5, ()), (6.0, (9,))])
def test_the_largest_margin_must_be_5_3_times_the_mean_of_nine_others(ratio, flagged, rows, linear_victim, defender):
    """At 4.5 times p is .106, at 6 times .025."""
    weights = torch.zeros(CLASSES, 1, 10, 10)
    for label in range(CLASSES):
        weights[label, 0, :, label] = 0.01 * (ratio if label == CLASSES - 1 else 1)
    victim = linear_victim(weights.flatten(1))
    found = MMBD(restarts=2, steps=200).inspect(victim, _resources(defender, victim, rows))
    assert found.flagged == flagged


def test_the_best_image_of_all_restarts_and_all_steps_counts(rows, linear_victim, defender):
    """One pixel x: hills of x / 50 + cos(2 pi x / 50), the highest at 255; and a step that goes too far from the top."""
    victim = linear_victim(torch.zeros(3, 1))
    resources = defender(victim, rows(torch.zeros(1, 1, 1, 1)), classes=3)
    object.__setattr__(resources.task, "shape", (1, 1, 1))

    def margin_of_the_first(logit, **effort):
        shown = lambda _, inputs: torch.stack([logit(inputs.flatten()), *2 * [0 * inputs.flatten()]], 1)  # noqa: E731
        victim.__class__ = type("Hills", (linear_victim,), {"forward": shown})
        return float(MMBD(**effort).margins(victim, resources.task, torch.Generator().manual_seed(4))[0])

    hills = lambda x: x / 50 + (2 * math.pi * x / 50).cos()  # noqa: E731
    highest = float(hills(torch.linspace(0, 255, 10001)).max())
    assert margin_of_the_first(hills, restarts=20, steps=100, step_size=5) == pytest.approx(highest, abs=0.01)
    assert margin_of_the_first(hills, restarts=1, steps=100, step_size=5) < highest - 0.5
    start = float(255 * torch.rand(1, generator=torch.Generator().manual_seed(4)))
    top = lambda x: -(x - start - 1).abs()  # noqa: E731
    assert margin_of_the_first(top, restarts=1, steps=1, step_size=60) == pytest.approx(-1, abs=1e-3)


def test_margin_by_hand():
    logits = torch.tensor([[1.0, 5.0, 3.0], [2.0, -1.0, 0.0]])
    assert margin(logits, torch.tensor([1, 2])).tolist() == [2.0, -2.0]


def _level(classes: int, limit: float = 0.05) -> float:
    """How often the largest of exponential values has p < limit when the mean is estimated from the others.

    p < limit where max / sum is above g = c / (c + K - 1), c = -log(1 - (1 - limit)^(1 / K)): Fisher's test of the largest
    share (1929, Proceedings of the Royal Society A 125).
    """
    needed = -math.log(1 - (1 - limit) ** (1 / classes))
    share = needed / (needed + classes - 1)
    terms = (math.comb(classes, j) * max(0.0, 1 - j * share) ** (classes - 1) * (-1) ** (j - 1) for j in range(1, classes + 1))
    return sum(terms)


@pytest.mark.parametrize(("classes", "exact"), [(10, 0.1571), (43, 0.0824)])
def test_the_level_of_the_p_value_under_its_null(classes, exact):
    """4,000 models whose margins are exponential: three standard errors are .017 at ten classes and .013 at 43."""
    assert _level(classes) == pytest.approx(exact, abs=1e-4)
    draws = np.sort(np.random.default_rng(0).exponential(size=(4000, classes)), axis=1)
    small = np.mean([log10_p(row[-1], torch.from_numpy(row[:-1])) < math.log10(0.05) for row in draws])
    assert abs(small - exact) < 3 * math.sqrt(exact * (1 - exact) / 4000)


def test_with_the_null_known_the_p_value_is_uniform():
    """The order statistic itself is exact: of so many others that their mean is known, p is below q in a share q of models."""
    random, classes = np.random.default_rng(1), 10
    largest = random.exponential(size=(4000, classes)).max(1)
    p = 1 - (1 - np.exp(-largest)) ** classes
    assert [float(np.mean(p < limit)) for limit in (0.05, 0.5)] == pytest.approx([0.05, 0.5], abs=0.025)
    others = torch.ones(classes - 1)  # whose mean is that of the null
    assert 10 ** log10_p(float(largest[0]), others) == pytest.approx(float(p[0]))


def test_p_values_are_finite_and_fall_as_the_largest_grows():
    others = torch.tensor([3.0, 4.0, 5.0, 6.0])
    for null in ("exponential", "gamma"):
        found = [log10_p(largest, others, null) for largest in (-1.0, 1e-9, 6.0, 20.0, 100.0, 120.0, 1e4, 1e9)]
        assert all(math.isfinite(value) and value <= 0 for value in found)
        assert found == sorted(found, reverse=True)
    assert log10_p(9.0, torch.full((9,), 9.0), "gamma") == log10_p(9.0, torch.full((9,), 9.0))


@pytest.mark.parametrize("name", ["restarts", "steps", "step_size", "significance"])
def test_what_cannot_work_is_refused(name, victim, rows, defender):
    MMBD().check(_resources(defender, victim, rows))
    with pytest.raises(Invalid, match=name):
        MMBD(**{name: 0}).check(_resources(defender, victim, rows))
    with pytest.raises(Invalid, match="exponential"):
        MMBD(null_distribution="exponentail").check(_resources(defender, victim, rows))  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="images"):
        MMBD().check(defender(victim, rows(torch.zeros(1, 1, 2, 2)), kind="text"))
    with pytest.raises(Unsupported, match="3 classes"):
        MMBD().check(_resources(defender, victim, rows, classes=2))
