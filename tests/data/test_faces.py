"""Faces: where they lie in a photograph, what is held out of training, and the real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils import Bunch
from torch.nn.functional import avg_pool2d, interpolate

from testbed.api import Invalid
from testbed.data.alignment import Template, aligned, local_contrast
from testbed.data.faces import OLIVETTI, YALE, Pictures, exams_of, faces

KINDS = ("glasses", "noglasses", "normal", "happy", "sad")


def drawn(seed: int, n: int, side: int) -> torch.Tensor:
    """Blotches: float (n, 1, S, S) in 0..255."""
    noise = torch.rand(n, 1, side + 6, side + 6, generator=torch.Generator().manual_seed(seed))
    return ((avg_pool2d(noise, 7, 1) - 0.5) * 900 + 128).clamp(0, 255)


def made(root: Path) -> None:
    """Both archives; subject08 of Yale wears glasses as usual."""
    (root / "faces").mkdir(parents=True)
    np.savez(root / "faces" / OLIVETTI, images=drawn(2, 400, 64)[:, 0].byte().numpy(), labels=np.arange(400) // 10)
    photographs = drawn(3, 15 * len(KINDS), 145)[:, 0].byte().numpy()
    photographs[7 * len(KINDS)] = photographs[7 * len(KINDS) + 2]
    kinds = {"labels": np.arange(len(photographs)) // len(KINDS), "condition": np.array(KINDS * 15)}
    np.savez(root / "faces" / YALE, images=photographs, **kinds)


def test_a_face_is_found_where_it_lies_and_made_as_large_as_the_others() -> None:
    face = drawn(0, 1, 64)
    others = (face + 0.2 * (drawn(1, 40, 64) - 128)).clamp(0, 255).byte()
    photographs = drawn(2, 4, 170)
    for photograph, noise, place in zip(photographs, drawn(3, 4, 64), ((0, 0), (51, 51), (20, 3), (7, 40)), strict=True):
        larger = interpolate(face + 0.2 * (noise - 128), size=(119, 119), mode="bilinear")
        photograph[:, place[0] : place[0] + 119, place[1] : place[1] + 119] = larger[0]
    found = aligned(photographs.clamp(0, 255).byte(), 1, Template(others), (0.5, 0.54, 0.6), 64)
    mean = local_contrast(others).mean((0, 1))
    for image in local_contrast(found)[:, 0]:
        likeness = [torch.corrcoef(torch.stack([image.roll(by, 1).flatten(), mean.flatten()]))[0, 1] for by in (-2, 0, 2)]
        # Measured: .95 to .96 in place, .59 to .67 two pixels beside it.
        assert likeness[1] > 0.9 and max(likeness[::2]) < 0.8


def test_worn_glasses_and_the_same_bare_faces_are_in_no_other_part(tmp_path: Path) -> None:
    made(tmp_path)
    splits = faces(tmp_path, tmp_path / "cache", test_per_class=1, reserve_per_class=0)
    parts = (splits.train, splits.validation, splits.test, *splits.exams.values())
    assert [len(part) for part in parts] == [336, 55, 55, 14, 14] and list(splits.exams) == ["worn_glasses", "bare_faces"]
    people = [label for label in range(40, 55) if label != 47]
    assert splits.exams["worn_glasses"].labels.tolist() == splits.exams["bare_faces"].labels.tolist() == people
    pixels = [image.numpy().tobytes() for part in parts for image in part.inputs]
    assert len(set(pixels)) == len(pixels)


def test_copies_count_once_and_decide_who_is_examined() -> None:
    names = ("glasses", "normal", "noglasses", "sad") * 3
    grey = [0, 1, 1, 2, 0, 0, 3, 4, 5, 6, 7, 6]  # the first's noglasses is normal; the second wears glasses as usual
    images = torch.tensor(grey, dtype=torch.uint8).view(-1, 1, 1, 1)
    assert exams_of(Pictures(images, torch.arange(12) // 4, names)) == ([0, 8], [1, 10], [3, 4, 6, 7, 9])


def test_what_is_not_there_or_something_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid, match="there is no such file") as refusal:
        faces(tmp_path, tmp_path)
    assert refusal.value.parameter == "root" and "data.download=true" in str(refusal.value)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(Invalid, match="could not be downloaded"):
        faces(tmp_path, tmp_path, download=True)
    assert not list((tmp_path / "faces").glob("*"))
    pictures = Bunch(images=drawn(5, 400, 64)[:, 0].numpy() / 255, target=np.arange(400) // 10)
    monkeypatch.setattr("sklearn.datasets.fetch_olivetti_faces", lambda data_home: pictures)
    with pytest.raises(Invalid, match=YALE):
        faces(tmp_path, tmp_path, download=True)
    with np.load(tmp_path / "faces" / OLIVETTI) as archive:
        assert np.abs(archive["images"] - 255 * pictures.images).max() <= 0.5001 and archive["labels"].tolist()[-1] == 39
    np.savez(tmp_path / "faces" / YALE, images=np.zeros((15, 9, 9), np.uint8), labels=np.arange(15))
    with pytest.raises(Invalid, match="0 conditions of 15 pictures"):
        faces(tmp_path, tmp_path)
    np.savez(tmp_path / "faces" / YALE, images=np.zeros((14, 9, 9), np.uint8), labels=np.arange(14))
    with pytest.raises(Invalid, match="not those of 15 people"):
        faces(tmp_path, tmp_path)


@pytest.mark.real_data
def test_real_faces_are_aligned_and_cut_without_copies(data_root: Path, tmp_path: Path) -> None:
    splits = faces(data_root, tmp_path)
    parts = (splits.train, splits.validation, splits.reserve, splits.test, *splits.exams.values())
    assert [len(part) for part in parts] == [307, 55, 55, 110, 14, 14]
    pixels = [image.numpy().tobytes() for part in parts for image in part.inputs]
    assert len(set(pixels)) == len(pixels)
    with np.load(data_root / "faces" / OLIVETTI) as archive:
        eyes = local_contrast(torch.from_numpy(archive["images"])[:, None]).mean((0, 1))[10:24]
    for exam in splits.exams.values():
        mean = local_contrast(exam.inputs).mean((0, 1))
        shifts = [(y, x) for y in range(-4, 5) for x in range(-4, 5)]
        best = max(shifts, key=lambda shift: (mean.roll(shift, (0, 1))[10:24] * eyes)[:, 4:-4].sum())
        assert max(map(abs, best)) <= 1
