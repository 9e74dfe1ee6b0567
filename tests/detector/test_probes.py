"""Axes through activations: what they are on cases worked out by hand, and what a probe says of a chat model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from testbed.api import DefenderResources, Invalid, Splits, Unsupported
from testbed.data.listed import Listed
from testbed.detector.lat import Lat
from testbed.detector.linear_probe import LinearProbe
from testbed.detector.mean_difference import MeanDifference
from testbed.detector.probing import Probing
from testbed.identity import generator
from testbed.language import ChatVictim
from testbed.numerics.probe import logistic, mean_difference, reading_vector

PROBES = [LinearProbe(), MeanDifference(), Lat()]
INSIDE = torch.tensor([True, True, False, False])


def resources(chat: ChatVictim, data: Splits) -> DefenderResources:
    return DefenderResources(data.task, data.train, data.reserve, lambda: chat, None, 3)  # type: ignore[arg-type]


def two_kinds(shift: float = 3.0, turn: float = 1.0) -> tuple[Tensor, Tensor]:
    """60 rows of 4 numbers; half of them lie `shift` further along the first one, which `turn` points."""
    values = torch.randn(60, 4, generator=generator(0, "rows")) * torch.tensor([0.5, 0.4, 0.3, 0.2])
    inside = torch.arange(60) < 30
    values[inside, 0] += shift * turn
    return values, inside


def test_the_difference_of_means_is_0_and_1_at_the_means() -> None:
    features = torch.tensor([[3.0, 1.0], [5.0, 3.0], [0.0, 2.0], [2.0, 2.0]])  # means (4, 2) and (1, 2)
    axis = mean_difference(features, INSIDE)
    assert axis.position(torch.tensor([[1.0, 9.0], [4.0, 0.0], [2.5, 7.0]])).tolist() == pytest.approx([0, 1, 0.5])


def test_the_logistic_axis_is_the_minimum_of_its_loss() -> None:
    features, inside = two_kinds(1.0)
    axis = logistic(features, inside, penalty=0.7)
    spread = features.double().std(0, correction=0)
    scaled, weight = (features.double() - features.double().mean(0)) / spread, axis.weight * spread
    residual = axis.position(features).sigmoid() - inside.double()
    assert torch.allclose(scaled.T @ residual + 0.7 * weight, torch.zeros(4).double(), atol=1e-6)
    assert abs(float(residual.sum())) < 1e-6


def test_a_feature_that_does_not_vary_plays_no_part() -> None:
    features, inside = two_kinds()
    constant = torch.cat([features, torch.full((60, 1), 7.0)], 1)
    moved = torch.cat([features, torch.full((60, 1), 99.0)], 1)
    for axis in (logistic(constant, inside, penalty=1.0), mean_difference(constant, inside)):
        assert torch.allclose(axis.position(constant), axis.position(moved))
    flat = torch.ones(4, 3)
    draws = generator(0, "pairs")
    for axis in (logistic(flat, INSIDE, penalty=1.0), mean_difference(flat, INSIDE), reading_vector(flat, INSIDE, draws=draws)):
        assert axis.position(flat).unique().numel() == 1 and bool(axis.position(flat).isfinite().all())


@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_a_reading_vector_keeps_what_all_pairs_share_and_points_inside(turn: float) -> None:
    # Without turning half of the pairs round, centring takes the common shift away and the spread of the first columns wins.
    features, inside = two_kinds(3.0, turn)
    axis = reading_vector(features, inside, draws=generator(1, "pairs"))
    assert float(axis.weight[0]) * turn > 0.99 and float(axis.weight.norm()) == pytest.approx(1)
    assert float(axis.position(features).mean()) == pytest.approx(0, abs=1e-6)
    assert axis.position(features)[inside].min() > axis.position(features)[~inside].max()


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: type(probe).__name__)
def test_a_probe_sees_answers_apart_from_refusals(probe: Probing, chat: ChatVictim, toy_data: Splits) -> None:
    # Each kind of the reserve is one prompt only, so that an untrained model's activations differ by kind and nothing else.
    kinds = chat.kinds(toy_data.reserve[torch.arange(len(toy_data.reserve))].labels)
    rows = torch.cat([(kinds == kind).nonzero().flatten()[:1].repeat(6) for kind in (0, 1)])
    reserve = toy_data.reserve.take(rows)  # type: ignore[attr-defined]
    given = replace(resources(chat, toy_data), reserve=reserve)
    probe.check(given)
    scores = probe.score(Listed(reserve.inputs, [""] * 12), chat, given)
    assert scores[:6].min() > scores[6:].max()
    other = replace(probe, suspected=1).score(reserve, chat, given)
    assert other[:6].max() < other[6:].min()


def test_a_probe_needs_both_kinds_a_layer_and_a_language(chat: ChatVictim, toy_data: Splits) -> None:
    given = resources(chat, toy_data)
    kinds = chat.kinds(toy_data.reserve[torch.arange(len(toy_data.reserve))].labels)
    answered = toy_data.reserve.take((kinds == 0).nonzero().flatten())  # type: ignore[attr-defined]
    with pytest.raises(Invalid, match=r"data.reserve_rows: 24 of 24 rows"):
        LinearProbe().check(replace(given, reserve=answered))
    for bad in (LinearProbe(suspected=2), LinearProbe(layer="layer9"), LinearProbe(penalty=0)):
        with pytest.raises(Invalid):
            bad.check(given)
    with pytest.raises(Unsupported, match="needs text"):
        LinearProbe().check(replace(given, task=replace(toy_data.task, kind="images")))
