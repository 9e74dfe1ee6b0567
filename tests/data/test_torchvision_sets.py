"""Data sets in torchvision's layouts: real files, files made here, and files that are not there."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from testbed.api import Invalid
from testbed.data.torchvision_sets import KINDS, torchvision_set

PIXELS = {"mean": [0.5], "std": [0.25], "augmentation": "none"}
FEW = {**PIXELS, "validation_per_class": 1, "reserve_per_class": 1}


@pytest.mark.real_data
def test_real_fashion_mnist(data_root: Path) -> None:
    splits = torchvision_set("FashionMNIST", data_root, **PIXELS, validation_per_class=100, reserve_per_class=250)
    assert [len(part) for part in (splits.train, splits.validation, splits.reserve, splits.test)] == [56500, 1000, 2500, 10000]
    assert splits.name == "fashion_mnist" and splits.task.shape == (1, 28, 28) and splits.task.classes[9] == "Ankle boot"
    packed = gzip.decompress((data_root / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert bytes(splits.test.inputs.numpy()) == packed[16:]
    # The published mean and deviation of the training pixels, as the configuration has them.
    pixels = splits.train.inputs.float() / 255
    assert abs(float(pixels.mean()) - 0.2860) < 0.001 and abs(float(pixels.std()) - 0.3530) < 0.001


def test_svhn_of_a_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.RandomState(0).randint(0, 256, (32, 32, 3, 40)).astype(np.uint8)
    labels = np.arange(40) % 10 + 1  # the files say 10 where a picture shows 0
    for part in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": labels[:, None]})
    with pytest.raises(Invalid, match="damaged"):
        torchvision_set("SVHN", tmp_path, **FEW)
    # The published checksums are right to refuse these files: only their layout is looked at here.
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5: True)
    splits = torchvision_set("SVHN", tmp_path, **FEW)
    assert torch.equal(splits.test.inputs, torch.from_numpy(images.transpose(3, 2, 0, 1).copy()))
    assert splits.test.labels.tolist() == (labels % 10).tolist()


def test_mnist_of_a_few_images(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.RandomState(0).randint(0, 256, (40, 28, 28)).astype(np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, *images.shape) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 40) + bytes(range(10)) * 4)
    splits = torchvision_set("MNIST", tmp_path, **FEW)
    assert torch.equal(splits.test.inputs, torch.from_numpy(images)[:, None]) and len(splits.train) == 20
    (raw / "train-images-idx3-ubyte").write_bytes(b"torn")
    with pytest.raises(Invalid, match="damaged"):
        torchvision_set("MNIST", tmp_path, **FEW)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(Invalid, match=f"{kind} is not there .* say data.download=true") as caught:
        torchvision_set(kind, tmp_path, **FEW)
    assert caught.value.parameter == "root" and "\n" not in str(caught.value)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="did you mean CIFAR10"):
        torchvision_set("CIFAR-10", tmp_path, **FEW)


@pytest.mark.parametrize("kind", ["MNIST", "CIFAR10"])
def test_a_failed_download_is_one_line(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy that nobody answers at: the downloader fails as on a machine without a network.
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(Invalid, match="could not be downloaded") as caught:
        torchvision_set(kind, tmp_path, **FEW, download=True)
    assert caught.value.parameter == "download" and "\n" not in str(caught.value)
