"""Activation clustering on clusters that were put there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import Invalid
from testbed.detector.activation_clustering import ActivationClustering


def _two_blobs(small: int, large: int, columns: int = 16) -> torch.Tensor:
    features = torch.randn(small + large, columns, generator=torch.Generator().manual_seed(small))
    features[:small] += 10
    return features


@settings(deadline=None)
@given(small=st.integers(3, 30), large=st.integers(31, 60))
def test_score_is_the_share_of_the_label_outside_the_own_cluster(small, large, rows, linear_victim, defender):
    examples, victim = rows(_two_blobs(small, large)), linear_victim(torch.zeros(2, 16))
    resources, detector = defender(victim, examples), ActivationClustering()
    scores = detector.score(examples, victim, resources)
    expected = torch.tensor([large] * small + [small] * large) / (small + large)
    torch.testing.assert_close(scores, expected.double(), atol=1e-6, rtol=0)
    flagged = detector.decide(scores.float(), examples, victim, resources)
    assert flagged.tolist() == [100 * small < 35 * (small + large)] * small + [False] * large


def test_a_share_of_exactly_the_threshold_stays(rows, linear_victim, defender):
    examples, victim = rows(_two_blobs(7, 13)), linear_victim(torch.zeros(2, 16))
    resources, detector = defender(victim, examples), ActivationClustering(size_threshold=0.35)
    scores = detector.score(examples, victim, resources)
    assert not detector.decide(scores.float(), examples, victim, resources).any()


def test_labels_are_clustered_apart_and_small_or_constant_ones_are_never_flagged(rows, linear_victim, defender):
    parts = [_two_blobs(20, 80), torch.randn(10, 16, generator=torch.Generator().manual_seed(1)), torch.full((30, 16), 0.1)]
    labels = torch.arange(3).repeat_interleave(torch.tensor([100, 10, 30]))
    order = torch.randperm(140, generator=torch.Generator().manual_seed(2))
    examples, victim = rows(torch.cat(parts)[order], labels[order]), linear_victim(torch.zeros(3, 16))
    resources, detector = defender(victim, examples, seed=2**62), ActivationClustering()
    scores = detector.score(examples, victim, resources)
    flagged = detector.decide(scores, examples, victim, resources)
    assert sorted(order[flagged].tolist()) == list(range(20))
    assert scores[labels[order] > 0].abs().max() == 0


@pytest.mark.parametrize("parameters", [{"components": 0}, {"size_threshold": 1.0}, {"layer": "first"}])
def test_what_cannot_work_is_refused(parameters, linear_victim, rows, defender):
    (name,) = parameters
    with pytest.raises(Invalid, match=name):
        ActivationClustering(**parameters).check(defender(linear_victim(torch.zeros(2, 6)), rows(torch.zeros(4, 6))))
