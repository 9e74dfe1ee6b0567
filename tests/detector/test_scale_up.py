"""SCALE-UP's consistency against a loop written out here."""

from __future__ import annotations

import pytest
import torch

from testbed.api import Invalid, Unsupported
from testbed.detector.scale_up import ScaleUp


def _images(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def victim(linear_victim):
    random = torch.Generator().manual_seed(0)
    return linear_victim(torch.randn(3, 16, generator=random) / 50, 2 * torch.randn(3, generator=random))


def _consistency(victim, images: torch.Tensor) -> tuple[list[float], list[int]]:
    shares, answers = [], []
    for image in images.float():
        answer = int(victim(image[None]).argmax())
        scaled = [int(victim(torch.clip(factor * image, 0, 255)[None]).argmax()) for factor in (3, 5, 7, 9, 11)]
        shares.append(sum(other == answer for other in scaled) / 5)
        answers.append(answer)
    return shares, answers


def test_score_is_the_share_of_scales_that_keep_the_answer(victim, rows, defender):
    queries = rows(_images(40, 1))
    scores = ScaleUp().score(queries, victim, defender(victim, rows(_images(4, 2))))
    shares, _ = _consistency(victim, queries.inputs)
    assert scores.tolist() == pytest.approx(shares)
    assert len(set(shares)) > 2
    flagged = ScaleUp().decide(scores, queries, victim, defender(victim, queries))
    assert flagged.tolist() == [share > 0.5 for share in shares]


def test_normalised_scores_compare_with_the_reserve_of_the_same_answer(victim, rows, defender):
    queries, reserve = rows(_images(20, 1)), rows(_images(30, 2))
    scores = ScaleUp(normalised=True).score(queries, victim, defender(victim, reserve))
    clean, classes = _consistency(victim, reserve.inputs)
    for score, share, answer in zip(scores.tolist(), *_consistency(victim, queries.inputs), strict=True):
        alike = [value for value, other in zip(clean, classes, strict=True) if other == answer]
        alike = torch.tensor(alike if len(alike) > 1 else clean, dtype=torch.float64)
        assert score == pytest.approx(float((share - alike.mean()) / (alike.std(correction=0) or 1)))


def test_a_planted_trigger_keeps_its_class(linear_victim, rows, defender):
    """Clean images are class 0 while dark and class 1 when bright; a white pixel in the corner makes class 2 of all."""
    weights = torch.zeros(3, 16)
    weights[1, :15], weights[2, 15] = 0.001, 1.0
    victim = linear_victim(weights, torch.tensor([1.0, 0, -200]))
    clean = torch.randint(20, 60, (10, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    clean[:, 0, 3, 3] = 0
    stamped = clean.clone()
    stamped[:, 0, 3, 3] = 255
    scores = ScaleUp().score(rows(torch.cat([clean, stamped])), victim, defender(victim, rows(clean)))
    assert scores[10:].tolist() == [1.0] * 10 and scores[:10].max() < 0.5


@pytest.mark.parametrize("parameters", [{"scales": ()}, {"scales": (3, 0)}, {"threshold": 1.0}, {"threshold": float("nan")}])
def test_what_cannot_work_is_refused(parameters, victim, rows, defender):
    (name,) = parameters
    with pytest.raises(Invalid, match=name):
        ScaleUp(**parameters).check(defender(victim, rows(_images(4, 2))))
    with pytest.raises(Invalid, match="reserve"):
        ScaleUp(normalised=True).check(defender(victim, rows(_images(1, 2))))
    with pytest.raises(Unsupported, match="images"):
        ScaleUp().check(defender(victim, rows(_images(4, 2)), kind="text"))
