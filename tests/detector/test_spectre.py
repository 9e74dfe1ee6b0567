"""SPECTRE's pieces against references written out here, and on poison that was put there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from testbed.api import Invalid
from testbed.detector.principal import principal_projections
from testbed.detector.spectral_signatures import SpectralSignatures
from testbed.detector.spectre import Spectre, squares
from testbed.numerics.robust_covariance import (
    gaussian_of,
    leading_quadratic,
    quantum_entropy_scores,
    robust_gaussian,
    whitened,
)


def _normal(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_que_scores_are_those_of_the_matrix_exponential() -> None:
    points = _normal(60, 5, 0) * torch.tensor([3.0, 1, 1, 0.5, 2])
    scores, mean = quantum_entropy_scores(points, 4.0)
    y = points.numpy() - points.numpy().mean(0)
    covariance = y.T @ y / 60
    weight = expm(4 * (covariance - np.eye(5)) / (np.linalg.norm(covariance, 2) - 1))
    np.testing.assert_allclose(scores, np.einsum("ni,ij,nj->n", y, weight, y) / np.trace(weight), rtol=1e-9)
    assert mean == pytest.approx(np.trace(covariance @ weight) / np.trace(weight))
    strong, squared = quantum_entropy_scores(points, 1e4)[0], (y @ np.linalg.eigh(covariance)[1][:, -1]) ** 2
    np.testing.assert_allclose(strong, squared, rtol=1e-6)


def test_leading_quadratic_is_the_top_principal_component_of_the_outer_products() -> None:
    points = _normal(200, 4, 1) * torch.tensor([1.0, 1, 2, 1])
    outer = (points[:, :, None] * points[:, None]).flatten(1)
    left, values, _ = torch.linalg.svd(outer - outer.mean(0), full_matrices=False)
    expected = left[:, 0] * values[0] / 2**0.5
    torch.testing.assert_close(leading_quadratic(points).abs(), expected.abs(), rtol=1e-4, atol=1e-4)


def test_wild_points_move_neither_mean_nor_covariance() -> None:
    points = _normal(400, 6, 2)
    points[:30] += 12 * torch.eye(6, dtype=torch.float64)[0]
    plain, robust = gaussian_of(points, torch.ones(400, dtype=torch.bool)), robust_gaussian(points, most=60, rounds=10)
    assert plain.covariance[0, 0] > 9
    torch.testing.assert_close(robust.covariance, torch.eye(6, dtype=torch.float64), atol=0.3, rtol=0)  # 5 times 1 / sqrt 400
    assert robust.mean.norm() < 0.3
    assert not robust.kept[:30].any() and int(robust.kept.sum()) >= 340
    torch.testing.assert_close(torch.cov(whitened(points, robust)[30:].T), torch.eye(6, dtype=torch.float64), atol=0.3, rtol=0)


def test_poison_across_the_direction_of_most_variance_is_found_and_its_label_alone_is_cut(
    rows, linear_victim, defender
) -> None:
    labels, poisoned = torch.arange(600) % 2, torch.zeros(600, dtype=torch.bool)
    poisoned[1:40:2] = True  # 20 of the 300 rows of label 1
    features = _normal(600, 12, 3).float() * torch.cat([torch.tensor([9.0, 7, 5]), torch.ones(9)])
    features[poisoned, 11] += 4.5
    examples, victim = rows(features, labels), linear_victim(torch.zeros(2, 12))
    resources, detector = defender(victim, examples), Spectre(expected_poison_rate=0.1)
    scores = detector.score(examples, victim, resources)
    spectral = SpectralSignatures().score(examples, victim, resources)
    rank = lambda found: (found[poisoned][:, None] > found[~poisoned]).double().mean()  # noqa: E731
    assert rank(scores) > 0.98 and rank(spectral) < 0.7
    flagged = detector.decide(scores, examples, victim, resources)
    assert labels[flagged].unique().tolist() == [1] and int(flagged.sum()) == 45 and int(flagged[poisoned].sum()) >= 19


@pytest.mark.parametrize("sizes", [[60, 150, 400], [133, 133, 133, 133]])
def test_the_poisoned_label_is_chosen_whatever_the_sizes_of_the_others(sizes, rows, linear_victim, defender) -> None:
    """Over six draws it is chosen in all; where excesses are not compared with those of clean rows, the smallest label is."""
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    last, victim = (labels == len(sizes) - 1).nonzero().flatten(), linear_victim(torch.zeros(len(sizes), 64))
    for seed in (0, 1):
        features = _normal(len(labels), 64, seed).float()
        features[last[: len(last) // 10], 11] += 6
        examples = rows(features, labels)
        resources = defender(victim, examples, classes=len(sizes))
        flagged = Spectre(filter_rounds=3).decide(torch.zeros(1), examples, victim, resources)
        assert labels[flagged].unique().tolist() == [len(sizes) - 1]


def test_of_the_numbers_of_components_that_counts_by_which_the_label_sticks_out_most() -> None:
    """The poison lies along the direction of most variance, so one component tells most, and the largest number less."""
    features, members, detector = _normal(200, 20, 4), torch.arange(200), Spectre(filter_rounds=3)
    features[:20, 0] += 5
    found, points = detector._judged(features, members, 0), principal_projections(features, 20)
    assert torch.equal(found.scores, detector._tried(points, 1)[0])
    assert not torch.allclose(found.scores, detector._tried(points, 20)[0])


def test_hardly_any_clean_row_is_left_out_of_the_covariance() -> None:
    """Over fifteen draws of 400 rows at most 2 are, of the 80 that may be; beyond 1.2 exp(-T) it would be 26."""
    left_out = [int((~robust_gaussian(_normal(400, 6, seed), most=80, rounds=10).kept).sum()) for seed in range(5)]
    assert max(left_out) <= 4


def test_numbers_of_components_that_are_tried() -> None:
    assert squares(1) == [1]
    assert squares(100) == [1, 4, 9, 16, 25, 36, 49, 64, 81, 100]
    assert squares(11) == [1, 4, 9, 11]


def test_small_and_constant_labels_score_without_error(rows, linear_victim, defender) -> None:
    labels = torch.tensor([0] * 3 + [1] * 10)
    examples, victim = rows(torch.full((13, 4), 0.1), labels), linear_victim(torch.zeros(2, 4))
    resources = defender(victim, examples)
    scores = Spectre().score(examples, victim, resources)
    assert scores.abs().max() == 0
    assert int(Spectre().decide(scores, examples, victim, resources).sum()) == 1


@pytest.mark.parametrize("parameters", [{"expected_poison_rate": 0.5}, {"components": 0}, {"que_strength": 0}, {"layer": "no"}])
def test_what_cannot_work_is_refused(parameters, rows, linear_victim, defender) -> None:
    (name,) = parameters
    with pytest.raises(Invalid, match=name):
        Spectre(**parameters).check(defender(linear_victim(torch.zeros(2, 6)), rows(torch.zeros(4, 6))))
