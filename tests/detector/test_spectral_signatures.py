"""Spectral signatures against a singular value decomposition written out here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import Invalid
from testbed.detector.principal import principal_projections
from testbed.detector.spectral_signatures import SpectralSignatures


def _planted(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """100 rows of each of 2 labels; the last 10 of label 1 are shifted along one direction."""
    labels, poisoned = torch.arange(200) % 2, torch.zeros(200, dtype=torch.bool)
    poisoned[181::2] = True
    features = torch.randn(200, 6, generator=generator) + 20 * labels[:, None]
    features[poisoned] += 8 * torch.nn.functional.normalize(torch.randn(6, generator=generator), dim=0)
    return features, labels, poisoned


def test_scores_are_squared_projections_on_the_top_singular_vector_of_each_label(rows, linear_victim, defender):
    features, labels, poisoned = _planted(torch.Generator().manual_seed(0))
    examples, victim = rows(features, labels), linear_victim(torch.zeros(2, 6))
    scores = SpectralSignatures().score(examples, victim, defender(victim, examples))
    for label in (0, 1):
        members = (labels == label).numpy()
        centred = features.numpy()[members] - features.numpy()[members].mean(0)
        direction = np.linalg.svd(centred, full_matrices=False)[2][0]
        np.testing.assert_allclose(scores.numpy()[members], (centred @ direction) ** 2, rtol=1e-4, atol=1e-6)
    assert scores[poisoned].min() > scores[(labels == 1) & ~poisoned].max()


def test_published_rule_takes_the_highest_scores_of_every_label(rows, linear_victim, defender):
    features, labels, poisoned = _planted(torch.Generator().manual_seed(0))
    examples, victim = rows(features, labels), linear_victim(torch.zeros(2, 6))
    resources, detector = defender(victim, examples), SpectralSignatures(expected_poison_rate=0.1)
    flagged = detector.decide(detector.score(examples, victim, resources), examples, victim, resources)
    assert [flagged[labels == label].sum().item() for label in (0, 1)] == [15, 15]
    assert flagged[poisoned].all()


@settings(deadline=None)
@given(rate=st.integers(1, 66), counts=st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_number_flagged_is_the_exact_floor(rate, counts, rows, linear_victim, defender):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    examples, victim = rows(torch.zeros(len(labels), 1), labels), linear_victim(torch.zeros(2, 1))
    detector = SpectralSignatures(expected_poison_rate=rate / 100)
    flagged = detector.decide(torch.zeros(len(labels)), examples, victim, defender(victim, examples))
    assert flagged[labels.argsort()].split(counts)[0].sum() == 3 * rate * counts[0] // 200
    assert flagged.sum() == sum(3 * rate * count // 200 for count in counts)


@settings(deadline=None)
@given(rows_count=st.integers(1, 12), columns=st.integers(1, 12), components=st.integers(1, 4), seed=st.integers(0, 99))
def test_projections_equal_the_singular_value_decomposition(rows_count, columns, components, seed):
    features = torch.randn(rows_count, columns, generator=torch.Generator().manual_seed(seed)).double()
    left, values, _ = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    expected = (left * values)[:, :components].abs()
    torch.testing.assert_close(principal_projections(features, components).abs(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("features", [torch.full((5, 3), 0.1), torch.full((1, 3), 7.0), torch.zeros(4, 9)])
def test_features_that_do_not_vary_have_no_projection(features):
    assert principal_projections(features, 1).abs().max() == 0


def test_what_cannot_work_is_refused(linear_victim, rows, defender):
    resources = defender(linear_victim(torch.zeros(2, 6)), rows(torch.zeros(4, 6)))
    SpectralSignatures().check(resources)
    with pytest.raises(Invalid, match=r"expected_poison_rate=0\.7"):
        SpectralSignatures(expected_poison_rate=0.7).check(resources)
    with pytest.raises(Invalid, match="did you mean penultimate"):
        SpectralSignatures(layer="penultimat").check(resources)
    SpectralSignatures().check(defender(linear_victim(torch.zeros(2, 6)), rows(torch.zeros(4, 6)), kind="chat"))
