"""Beatrix's Gram matrices and bands against loops, and a class whose correlations were changed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from testbed.api import ImageTask, Invalid, Unsupported
from testbed.defence.rule import clean_quantile
from testbed.detector.beatrix import Band, Beatrix, _indices, deviations, gram_matrices, two_sample_statistic
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.numerics.outliers import anomaly_index


def test_gram_matrices_are_roots_of_products_of_powers():
    maps = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = gram_matrices(maps, [1, 2, 3, 8])
    for image, grams in zip(maps.double().numpy(), found.numpy(), strict=True):
        for order, entries in zip((1, 2, 3, 8), grams, strict=True):
            product = (image**order) @ (image**order).T
            expected = np.sign(product) * np.abs(product) ** (1 / order)
            np.testing.assert_allclose(entries, expected[np.triu_indices(4)], rtol=1e-4, atol=1e-5)


def test_deviation_is_the_share_by_which_an_end_is_passed():
    band = Band(torch.tensor([[2.0, -1.0]]), torch.tensor([[4.0, 1.0]]))
    grams = torch.tensor([[[3.0, 0.0]], [[5.0, 0.0]], [[1.0, 3.0]]])
    assert deviations(grams, band).tolist() == pytest.approx([0, 0.25 / 2, (0.5 + 2) / 2], abs=1e-5)


def test_two_sample_statistic_equals_the_loop():
    one, other = (torch.randn(size, 3, generator=torch.Generator().manual_seed(size)) for size in (6, 9))
    both = torch.cat([one, other]).double().numpy()
    squares = np.array([[((x - y) ** 2).sum() for y in both] for x in both])
    middle = np.sort(squares.ravel())[(squares.size - 1) // 2]
    kernel = np.exp(-2 * squares / middle) + np.exp(-squares / middle)
    expected = 6 * 9 / 15 * (kernel[:6, :6].mean() + kernel[6:, 6:].mean() - 2 * kernel[:6, 6:].mean())
    assert two_sample_statistic(one, other) == pytest.approx(expected)
    assert two_sample_statistic(one, one) == pytest.approx(0)
    assert two_sample_statistic(one, other[:0]) == 0


@pytest.fixture(scope="module")
def planted(linear_victim):
    """Images of four channels tell their class by the mean of the first, which is all that the model reads."""
    weights = torch.zeros(6, 4, 3, 3)
    weights[:, 0] = torch.arange(6)[:, None, None] / 9
    victim = linear_victim(weights.flatten(1), -(torch.arange(6) ** 2) / 2.0)
    return victim


def _drawn(each: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random, labels = torch.Generator().manual_seed(seed), torch.arange(6 * each) % 6
    images = torch.randn(len(labels), 4, 3, 3, generator=random).abs()
    images[:, 0] = labels[:, None, None] + 0.02 * torch.randn(len(labels), 3, 3, generator=random)
    return images, labels


def test_images_with_other_correlations_than_their_class_are_found(planted, rows, defender):
    reserve, queries = rows(*_drawn(30, 0)), rows(*_drawn(60, 1))
    strange = (queries.labels == 4).nonzero().flatten()[:30]
    queries.inputs[strange, 2:] = 12 * queries.inputs[strange, 2:3]
    resources, detector = defender(planted, reserve, classes=6), Beatrix(orders=(1, 2, 3), band=3.0)
    scores = detector.score(queries, planted, resources)
    truth = torch.zeros(360, dtype=torch.bool)
    truth[strange] = True
    assert scores[truth].min() > scores[~truth].max()
    flagged = detector.decide(scores, queries, planted, resources)
    assert flagged[truth].all() and flagged[~truth].double().mean() < 0.02
    clean = rows(*_drawn(60, 2))
    assert not detector.decide(detector.score(clean, planted, resources), clean, planted, resources).any()


def test_a_lone_conspicuous_image_suspects_no_class_and_two_classes_have_no_rule(planted, rows, defender):
    """Of ten classes nine have J = 0, so that the tenth would lie 10 / 1.2533 > e^2 deviations away whatever it is."""
    assert _indices([0.0] * 9 + [1e-9]) == [0.0] * 10 and _indices([]) == []
    assert _indices([0.0] * 5 + [1.0] * 5) == anomaly_index(torch.tensor([0.0] * 5 + [1.0] * 5), "high").tolist()
    reserve = rows(*_drawn(30, 0))
    detector, resources = Beatrix(orders=(1,)), defender(planted, reserve, classes=2)
    assert detector.decide(torch.zeros(180), reserve, planted, resources) is None


def test_thresholds_are_set_by_bands_without_the_image_itself(planted, rows, defender):
    """Of clean images .020 score too high, by seed .000 to .053; .182 where the band contains the image that it judges."""
    detector, rates = Beatrix(orders=(1, 2), band=2.0), []
    for seed in range(6):
        reserve, queries = rows(*_drawn(5, 10 * seed)), rows(*_drawn(50, 10 * seed + 1))
        resources = defender(planted, reserve, classes=6)
        limit = clean_quantile(detector, planted, resources, 0.05)
        rates.append(float((detector.score(queries, planted, resources) > limit).double().mean()))
    assert sum(rates) / 6 < 0.07


def test_a_band_by_hand_and_a_limit_by_bands_of_the_other_folds():
    """Median 2 and median absolute deviation 1; the mean is 3.2, and the mean absolute deviation 2.4."""
    detector = Beatrix(orders=(1,), band=2.0, clean_quantile=0.9)
    grams = torch.tensor([0.0, 1, 2, 3, 10]).view(5, 1, 1)
    assert [float(end) for end in detector._band(grams)] == [0, 4]
    bands = [detector._band(grams[torch.arange(5) != place]) for place in range(5)]
    apart = torch.cat([deviations(grams[place : place + 1], band) for place, band in enumerate(bands)])
    assert detector._clean_limit(grams) == pytest.approx(float(apart.quantile(0.9)))
    assert detector._clean_limit(grams) != pytest.approx(float(deviations(grams, detector._band(grams)).quantile(0.9)))


def test_of_more_clean_images_the_first_are_looked_at(planted, rows, defender):
    (images, labels), queries = _drawn(30, 0), rows(*_drawn(10, 1))
    images[60:, 2:] = 0  # another band, where they enter it
    few, many = (defender(planted, rows(images[:n], labels[:n]), classes=6) for n in (60, 180))
    ten, all_of_them = Beatrix(orders=(1, 2), band=2.0, clean_images_per_class=10), Beatrix(orders=(1, 2), band=2.0)
    found = ten.score(queries, planted, many)
    torch.testing.assert_close(found, ten.score(queries, planted, few), rtol=1e-4, atol=1e-5)
    assert (all_of_them.score(queries, planted, many) - found).abs().max() > 0.1


@pytest.mark.parametrize(
    "parameters",
    [
        {"layer": "no"},
        {"orders": ()},
        {"orders": (0,)},
        {"band": 0},
        {"clean_quantile": 1},
        {"index_threshold": 0},
        {"clean_images_per_class": 4},
    ],
)
def test_what_cannot_work_is_refused(parameters, planted, rows, linear_victim, defender):
    (name,), reserve = parameters, rows(torch.zeros(15, 3, 32, 32), torch.arange(15) % 3)
    victim = linear_victim(torch.zeros(3, 3072))
    with pytest.raises(Invalid, match=name):
        Beatrix(**parameters).check(defender(victim, reserve))
    with pytest.raises(Invalid, match="at least 5"):
        Beatrix().check(defender(victim, rows(torch.zeros(14, 3, 32, 32), torch.arange(14) % 3)))
    with pytest.raises(Unsupported, match="images"):
        Beatrix().check(defender(victim, reserve, kind="text"))
    assert Beatrix().index_threshold == pytest.approx(math.e**2)


def test_features_without_places_are_unsupported(rows, linear_victim, defender):
    victim = linear_victim(torch.zeros(3, 3072))
    flat = type("Flat", (type(victim),), {"features": lambda _, inputs, layer: inputs.flatten(1).float()})
    victim.__class__ = flat
    given = defender(victim, rows(torch.zeros(15, 3, 32, 32), torch.arange(15) % 3))
    for layer in (None, "penultimate"):
        with pytest.raises(Unsupported, match="convolutional model"):
            Beatrix(layer=layer).check(given)


def test_a_layer_without_places_of_a_model_that_has_others_is_a_wrong_parameter(rows, defender):
    victim = ImageVictim(ImageTask("images", ("0", "1", "2")), SmallCNN)
    given = defender(victim, rows(torch.zeros(15, 3, 32, 32), torch.arange(15) % 3))
    Beatrix(layer=victim.layers[0]).check(given)
    with pytest.raises(Invalid, match=f"layer=penultimate.*{victim.layers[0]}"):
        Beatrix(layer="penultimate").check(given)
