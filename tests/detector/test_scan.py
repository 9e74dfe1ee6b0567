"""SCAn: the two covariances against their closed form, and a label of two pieces among labels of one."""

from __future__ import annotations

import math

import pytest
import torch

from testbed.api import Invalid
from testbed.detector.scan import Scan, inverse_root, two_components

CLASSES, DIMENSIONS, PLANTED = 8, 5, 3


def _drawn(each: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows around class means that are far from each other."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES * each) % CLASSES
    means = 5 * torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(99))
    scale = torch.tensor([3.0, 1, 1, 1, 1])
    return means[labels] + scale * torch.randn(len(labels), DIMENSIONS, generator=random), labels


def test_covariances_are_the_most_likely_ones() -> None:
    """Balanced classes have a closed form: S_e = scatter / (K (n - 1)), S_u = mean of squared class means - S_e / n."""
    features, labels = _drawn(20, 0)
    found = two_components(features, labels, iterations=300)
    values = features.double() - features.double().mean(0)
    means = torch.stack([values[labels == label].mean(0) for label in range(CLASSES)])
    spread = values - means[labels]
    within = spread.T @ spread / (CLASSES * 19)
    torch.testing.assert_close(found.within, within, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.between, means.T @ means / CLASSES - within / 20, rtol=1e-6, atol=1e-6)
    root = inverse_root(found.within)
    torch.testing.assert_close(root.T @ found.within @ root, torch.eye(DIMENSIONS, dtype=torch.float64))


@pytest.mark.parametrize("planted", [15, 60])
def test_the_strange_piece_is_found_be_it_the_smaller_or_the_larger(planted, rows, linear_victim, defender) -> None:
    """The shift is small beside the spread in the first direction, and large beside that in the direction where it is."""
    clean, received = rows(*_drawn(25, 1)), rows(*_drawn(80, 2))
    poisoned = (received.labels == PLANTED).nonzero().flatten()[:planted]
    received.inputs[poisoned, 4] += 6
    victim = linear_victim(torch.zeros(CLASSES, DIMENSIONS))
    resources, detector = defender(victim, clean, classes=CLASSES), Scan()
    scores = detector.score(received, victim, resources)
    flagged = detector.decide(scores, received, victim, resources)
    truth = torch.zeros(len(received), dtype=torch.bool)
    truth[poisoned] = True
    assert (flagged != truth).double().mean() < 0.01
    assert scores[truth].median() > math.exp(2) and scores[~truth].median() < 0.5
    assert not detector.decide(scores, rows(*_drawn(80, 3)), victim, resources).any()


def test_statistic_is_the_gain_of_two_means_in_the_clean_metric(rows, linear_victim, defender) -> None:
    """Two labels of one dimension, by hand: clean rows vary by 1, label 1 lies in two heaps."""
    clean = rows(torch.tensor([[-10.0], [-12], [10], [12]]), torch.tensor([0, 0, 1, 1]))
    received = rows(torch.tensor([[-11.0], [-11], [8], [8], [14], [14]]), torch.tensor([0, 0, 1, 1, 1, 1]))
    victim = linear_victim(torch.zeros(2, 1))
    one, two = Scan(em_iterations=500)._splits(received, victim, defender(victim, clean, classes=2))
    within = 2.0  # sum of squares 4 over K (n - 1) = 2 degrees of freedom
    between = 11**2 - within / 2
    single = between / (between + within / 4) * 11
    assert one.gain == 0
    assert two.gain == pytest.approx((((8 - single) ** 2 + (14 - single) ** 2) / 2) / within, rel=1e-5)
    assert two.attack.tolist() == pytest.approx([1 / (1 + math.exp(9))] * 2 + [1 / (1 + math.exp(-9))] * 2)


def test_there_is_no_rule_for_two_classes(rows, linear_victim, defender) -> None:
    """Of two labels one is always .674 deviations above their median, be it poisoned or not."""
    features = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    features[1::4] += 50
    examples, victim = rows(features, torch.arange(40) % 2), linear_victim(torch.zeros(2, 2))
    resources = defender(victim, rows(features[::2] - features[::2].mean(0), torch.arange(20) % 2), classes=2)
    scores = Scan().score(examples, victim, resources)
    assert 0.6 < scores.max() < 0.7 and Scan().decide(scores, examples, victim, resources) is None


def test_directions_that_do_not_vary_are_left_out() -> None:
    assert inverse_root(torch.diag(torch.tensor([4.0, 0, 1], dtype=torch.float64))).shape == (3, 2)


@pytest.mark.parametrize("parameters", [{"index_threshold": 0}, {"em_iterations": 0}, {"layer": "no"}])
def test_what_cannot_work_is_refused(parameters, rows, linear_victim, defender) -> None:
    (name,), examples = parameters, rows(torch.zeros(6, 6), torch.arange(6) % 3)
    victim = linear_victim(torch.zeros(3, 6))
    with pytest.raises(Invalid, match=name):
        Scan(**parameters).check(defender(victim, examples))
    with pytest.raises(Invalid, match="1 of class 1: at least 2"):
        Scan().check(defender(victim, rows(torch.zeros(5, 6), torch.tensor([0, 0, 1, 2, 2]))))
