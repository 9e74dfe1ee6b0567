"""Deep k-NN against scikit-learn's neighbours, and on labels that were turned over."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from testbed.api import Invalid
from testbed.detector import deep_knn
from testbed.detector.deep_knn import METRICS, DeepKnn


@settings(deadline=None, max_examples=20)
@given(drawn=st.tuples(st.integers(0, 99), st.floats(0.1, 2), st.sampled_from(METRICS), st.integers(1, 999)))
def test_score_is_the_share_of_neighbours_with_another_label(drawn, rows, linear_victim, defender):
    seed, share, metric, at_once = drawn
    random = torch.Generator().manual_seed(seed)
    features, labels = torch.randn(40, 3, generator=random), torch.randint(0, 3, (40,), generator=random)
    examples, victim = rows(features, labels), linear_victim(torch.zeros(3, 3))
    resources, detector = defender(victim, examples), DeepKnn(neighbours_per_class=share, metric=metric)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deep_knn, "NUMBERS", at_once)
        scores = detector.score(examples, victim, resources)
    found = NearestNeighbors(n_neighbors=39, metric=metric, algorithm="brute").fit(features.numpy()).kneighbors()[1]
    flagged = detector.decide(scores, examples, victim, resources)
    for order, label, score, flag in zip(labels[torch.from_numpy(found)], labels, scores, flagged, strict=True):
        counts = order[: min(max(1, round(share * int((labels == label).sum()))), 39)].bincount(minlength=3)
        assert float(score) == pytest.approx(1 - float(counts[label] / counts.sum()))
        assert bool(flag) == bool(counts[label] < counts.max())


def test_rows_among_those_of_another_label_are_flagged(rows, linear_victim, defender):
    labels = torch.arange(90) % 3
    features = 10 * torch.eye(3)[labels] + torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    given = labels.clone()
    given[:6] = (labels[:6] + 1) % 3
    examples, victim = rows(features, given), linear_victim(torch.zeros(3, 3))
    resources = defender(victim, examples)
    flagged = DeepKnn().decide(torch.zeros(90), examples, victim, resources)
    assert flagged.nonzero().flatten().tolist() == list(range(6))


def test_rows_of_a_rare_class_are_not_flagged_for_being_few(rows, linear_victim, defender):
    """Of clusters of 200, 200 and 30 rows, the rare one's have 29 others like them among 143 neighbours, or among 30."""
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate((200, 200, 30))])
    features = 10 * torch.eye(3)[labels] + torch.randn(430, 3, generator=torch.Generator().manual_seed(0))
    given = labels.clone()
    given[[0, 200]] = 2
    examples, victim = rows(features, given), linear_victim(torch.zeros(3, 3))
    flagged = DeepKnn().decide(torch.zeros(430), examples, victim, defender(victim, examples))
    assert flagged.nonzero().flatten().tolist() == [0, 200]


@pytest.mark.parametrize("parameters", [{"neighbours_per_class": 0}, {"metric": "manhattan"}, {"layer": "no"}])
def test_what_cannot_work_is_refused(parameters, rows, linear_victim, defender):
    (name,) = parameters
    with pytest.raises(Invalid, match=name):
        DeepKnn(**parameters).check(defender(linear_victim(torch.zeros(2, 6)), rows(torch.zeros(4, 6))))
