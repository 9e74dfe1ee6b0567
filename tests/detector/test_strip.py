"""STRIP's entropies and threshold, against loops written out here."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import Invalid, Unsupported
from testbed.detector import strip
from testbed.detector.strip import Strip, mean_entropy, upper_quantile


def _images(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def victim(linear_victim):
    return linear_victim(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)) / 100)


@pytest.mark.parametrize("superposition", [(1.0, 1.0), (0.5, 0.5)])
def test_score_is_minus_the_mean_entropy_in_bits_over_the_overlays(superposition, victim, rows, defender):
    queries, reserve = rows(_images(5, 1)), rows(_images(4, 2))
    scores = Strip(overlays=4, superposition=superposition).score(queries, victim, defender(victim, reserve))
    for query, score in zip(queries.inputs.float(), scores.tolist(), strict=True):
        entropies = []
        for overlay in reserve.inputs.float():
            mixed = torch.clip(superposition[0] * query + superposition[1] * overlay, 0, 255)
            probabilities = victim(mixed[None])[0].softmax(0).tolist()
            entropies.append(-sum(p * math.log2(p) for p in probabilities))
        assert score == pytest.approx(-sum(entropies) / 4, abs=1e-5)


@settings(deadline=None)
@given(at_once=st.integers(1, 2000), first=st.integers(1, 19))
def test_neither_batches_nor_neighbours_matter(at_once, first, victim, rows, defender):
    queries, resources = _images(20, 1), defender(victim, rows(_images(12, 2)))
    whole = Strip(overlays=7).score(rows(queries), victim, resources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strip, "CPU_NUMBERS", at_once)
        parts = [Strip(overlays=7).score(rows(part), victim, resources) for part in (queries[:first], queries[first:])]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)


def test_the_seed_chooses_the_overlays(victim, rows, defender):
    queries, reserve = rows(_images(3, 1)), rows(_images(40, 2))
    scores = [Strip(overlays=2).score(queries, victim, defender(victim, reserve, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2], atol=1e-3)


def test_an_answer_that_no_overlay_changes_scores_zero(linear_victim, rows):
    stubborn = linear_victim(torch.tensor([[10.0, 0.0], [0.0, 0.0]]))
    assert mean_entropy(stubborn, torch.tensor([[[[255.0, 0.0]]]]), torch.zeros(3, 1, 1, 2), (1.0, 1.0)).item() == 0


@settings(deadline=None)
@given(rate=st.floats(0.001, 0.2), mean=st.floats(-5, 0), spread=st.floats(0.01, 3))
def test_threshold_rejects_normal_scores_at_the_declared_rate(rate, mean, spread):
    scores = mean + spread * torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rejected = (scores > upper_quantile(scores, rate)).double().mean().item()
    # five standard errors of a share of 200,000
    assert rejected == pytest.approx(rate, abs=5 * math.sqrt(rate / 200_000))


def test_rule_flags_queries_that_are_surer_than_the_reserve(victim, rows, defender):
    reserve, queries = rows(_images(50, 2)), rows(_images(10, 1))
    resources, detector = defender(victim, reserve), Strip(overlays=10)
    clean = detector.score(reserve, victim, resources).double()
    limit = clean.mean().item() + 2.3263478740408408 * clean.std(correction=1).item()
    scores = torch.linspace(limit - 0.01, limit + 0.01, 10)
    assert detector.decide(scores, queries, victim, resources).tolist() == [False] * 5 + [True] * 5


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"overlays": 0}, "overlays=0"),
        ({"overlays": 21}, "overlays=21: the reserve has 20 images"),
        ({"overlays": 5, "false_rejection_rate": 0.0}, "false_rejection_rate"),
        ({"overlays": 5, "superposition": (1.0,)}, "superposition"),
        ({"overlays": 5, "superposition": (1.0, 0.0)}, "superposition"),
    ],
)
def test_what_cannot_work_is_refused(parameters, named, victim, rows, defender):
    resources = defender(victim, rows(_images(20, 2)))
    Strip(overlays=20).check(resources)
    with pytest.raises(Invalid, match=named):
        Strip(**parameters).check(resources)
    with pytest.raises(Invalid, match=r"data\.reserve_per_class: the reserve has 0"):
        Strip().check(defender(victim, rows(_images(0, 2))))
    with pytest.raises(Unsupported, match="images"):
        Strip().check(defender(victim, rows(_images(20, 2)), kind="text"))
