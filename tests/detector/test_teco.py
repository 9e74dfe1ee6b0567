"""TeCo's score against a loop, and the corruptions against their definitions."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from testbed.api import Invalid, Unsupported
from testbed.detector.corruption import BRIGHTNESS, CONTRAST, KINDS, SHOT, corrupt
from testbed.detector.teco import TeCo
from testbed.identity import derive, generator


def _images(count: int, seed: int = 0, shape: tuple[int, int, int] = (3, 16, 16)) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def victim(linear_victim):
    return linear_victim(torch.randn(4, 3 * 16 * 16, generator=torch.Generator().manual_seed(1)) / 500)


def test_score_is_the_deviation_of_the_first_severities_that_change_the_answer(victim, rows, defender):
    chosen = ("gaussian_noise", "brightness", "pixelate")
    queries = rows((255 * _images(12)).byte())
    scores = TeCo(corruptions=chosen).score(queries, victim, defender(victim, queries, seed=5))
    seen = set()
    for image, score in zip(queries.inputs.float() / 255, scores.tolist(), strict=True):
        answer, firsts = victim(255 * image[None]).argmax(), []
        for kind in chosen:
            shown = [victim(255 * corrupt(image[None], kind, level, 5)).argmax() for level in range(1, 6)]
            firsts.append(next((level for level, other in enumerate(shown, start=1) if other != answer), 6))
        assert score == pytest.approx(float(torch.tensor(firsts, dtype=torch.float64).std(correction=0)))
        seen |= set(firsts)
    assert {1, 6} <= seen


@settings(deadline=None, max_examples=15)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    severity=st.integers(1, 5),
    channels=st.sampled_from([1, 2, 3]),
    side=st.integers(5, 20),
)
def test_corrupted_images_are_images_and_depend_on_themselves_and_the_seed_alone(kind, severity, channels, side):
    images = _images(3, 2, (channels, side, side + 2))
    before, shown = images.clone(), corrupt(images, kind, severity, 7)
    assert shown.shape == images.shape and shown.dtype == images.dtype and torch.equal(images, before)
    assert shown.min() >= 0 and shown.max() <= 1
    torch.testing.assert_close(corrupt(images[1:2], kind, severity, 7), shown[1:2], atol=1e-6, rtol=0)
    state = torch.get_rng_state()
    torch.testing.assert_close(corrupt(images, kind, severity, 7), shown, atol=0, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_noises_have_their_moments():
    grey = torch.full((1, 3, 200, 200), 0.5)
    assert float(corrupt(grey, "gaussian_noise", 1, 0).std()) == pytest.approx(0.08, rel=0.02)
    counts = corrupt(grey / 2, "shot_noise", 1, 0) * SHOT[0]
    assert float(counts.var()) == pytest.approx(float(counts.mean()), rel=0.05) and torch.equal(counts, counts.round())
    shown = corrupt(grey, "impulse_noise", 3, 0)
    assert float((shown == 0).float().mean()) == pytest.approx(0.045, abs=0.005)
    assert float((shown == 1).float().mean()) == pytest.approx(0.045, abs=0.005)


def test_gaussian_noise_jpeg_and_fog_at_every_severity():
    """The published constants; fog of an even image b reaches from b^2 / (b + strength) to b, its clouds are written out."""
    images, side = _images(1), 16
    pixels = (255 * images[0]).round().byte().permute(1, 2, 0).numpy()
    published = ((0.08, 25, 1.5, 2), (0.12, 18, 2, 2), (0.18, 15, 2.5, 1.7), (0.26, 10, 2.5, 1.5), (0.38, 7, 3, 1.4))
    for severity, (deviation, quality, strength, decay) in enumerate(published, start=1):
        noise = KINDS["gaussian_noise"](torch.zeros(1, 3, 200, 200), severity - 1, torch.Generator().manual_seed(0))
        assert float(noise.std()) == pytest.approx(deviation, rel=0.02) and abs(float(noise.mean())) < 0.01
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
        torch.testing.assert_close(corrupt(images, "jpeg_compression", severity, 0)[0], expected)
        fog = corrupt(torch.full((1, 1, side, side), 0.5), "fog", severity, 7)
        assert fog.aminmax() == pytest.approx((0.25 / (0.5 + strength), 0.5), rel=1e-5)
        field = generator(derive(7, "fog"), str(severity))
        octaves = [torch.rand(1, 1, cells, cells, generator=field) for cells in (2, 4, 8, 16, 16)]
        scaled = (torch.nn.functional.interpolate(octave, (side, side), mode="bilinear") for octave in octaves)
        clouds = sum(octave / decay**place for place, octave in enumerate(scaled))
        clouds = (clouds - clouds.min()) / (clouds.max() - clouds.min())
        torch.testing.assert_close(fog, (0.5 + strength * clouds) * 0.5 / (0.5 + strength), rtol=1e-4, atol=1e-5)


def test_brightness_contrast_and_pixelate_are_exact():
    images = _images(2) / 2
    torch.testing.assert_close(corrupt(images[:, :1], "brightness", 2, 0), images[:, :1] + BRIGHTNESS[1])
    brighter = corrupt(images, "brightness", 2, 0)
    torch.testing.assert_close(brighter.amax(1), images.amax(1) + BRIGHTNESS[1])
    torch.testing.assert_close(brighter / brighter.amax(1, keepdim=True), images / images.amax(1, keepdim=True))
    assert corrupt(torch.zeros(1, 3, 4, 4), "brightness", 1, 0).unique().tolist() == pytest.approx([0.1])
    flat = corrupt(images, "contrast", 5, 0)
    torch.testing.assert_close(flat.mean((2, 3)), images.mean((2, 3)))
    torch.testing.assert_close(flat.std((2, 3)), CONTRAST[4] * images.std((2, 3)))
    halves = corrupt(images, "pixelate", 2, 0)
    torch.testing.assert_close(halves[:, :, ::2, ::2], torch.nn.functional.avg_pool2d(images, 2))
    torch.testing.assert_close(halves[:, :, 1::2, 1::2], halves[:, :, ::2, ::2])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_higher_severity_takes_more_of_the_image(kind):
    ramp = torch.linspace(0.2, 0.8, 48)
    images = (0.5 + 0.3 * torch.sin(20 * ramp)[:, None] * torch.cos(31 * ramp)).expand(1, 3, 48, 48).contiguous()
    lost = [float((corrupt(images, kind, severity, 3) - images).square().mean()) for severity in range(1, 6)]
    assert min(lost) > 0
    # the first two severities of the transform bend the whole image; fog is drawn anew for each
    if kind not in ("elastic_transform", "fog"):
        assert lost[4] > lost[0]


def test_what_cannot_work_is_refused(victim, rows, defender):
    queries = rows((255 * _images(4)).byte())
    TeCo().check(defender(victim, queries))
    for wrong in (("fog",), ("fog", "fog"), ("fog", "rain")):
        with pytest.raises(Invalid, match="corruptions"):
            TeCo(corruptions=wrong).check(defender(victim, queries))
    with pytest.raises(Unsupported, match="images"):
        TeCo().check(defender(victim, queries, kind="chat"))
