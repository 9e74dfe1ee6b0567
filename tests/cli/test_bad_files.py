"""Files that do not hold what was promised: images, labels, pictures and weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

Say = Callable[..., Any]
QUICK = ("trainer.max_epochs=1", "model.network.width=2", "logger=none", "trainer.threads=1")
ROWS = 60
LABELS = np.arange(ROWS) % 2
GREY = np.zeros((ROWS, 8, 8), dtype=np.uint8)


def arrays(folder: Path, labels: np.ndarray, images: np.ndarray) -> tuple[str, ...]:
    """The words that train on these images and labels."""
    for part in ("train", "test"):
        np.savez(folder / f"{part}.npz", images=images, labels=labels)
    return "train", "data=arrays", "data.train=train.npz", "data.test=test.npz", "attack.poison_rate=0.1", *QUICK


@pytest.mark.parametrize(
    ("labels", "images", "expected"),
    [
        (LABELS.astype(float), GREY, "data.train=train.npz: labels of type float64, where whole numbers"),
        (LABELS.astype(str), GREY, "data.train=train.npz: labels of type <U21, where whole numbers"),
        (LABELS.astype(bool), GREY, "data.train=train.npz: labels of type bool, where whole numbers"),
        (LABELS - 1, GREY, "data.train=train.npz: a label is -1, where whole numbers"),
        (np.stack([LABELS, LABELS], 1), GREY, "data.train=train.npz: labels of shape (60, 2), where one class"),
        (LABELS[:-1], GREY, "60 images but 59 labels"),
        (LABELS * 0, GREY, "data.train=train.npz: classes 0: a classifier needs at least two classes"),
        (LABELS * 2, GREY, "data.train=train.npz: 1 empty classes: no row shows 1"),
        (LABELS[:0], GREY[:0], "data.train=train.npz: 0 rows: "),
        (LABELS.astype(object), GREY, "without pickled objects"),
        (LABELS, GREY / 255, "images are float64, where uint8 is read"),
        (LABELS, GREY.astype(np.uint16), "images are uint16, where uint8 is read"),
        (LABELS, np.zeros((ROWS, 8, 8, 4), np.uint8), "with 1 or 3 channels"),
    ],
)
def test_labels_and_images_of_another_kind(labels: np.ndarray, images: np.ndarray, expected: str, say: Say, here: Path) -> None:
    said = say(*arrays(here, labels, images))
    assert said.code == 2
    assert expected in said.refusal()
    assert said.refusal().startswith("data.")
    assert not list(here.glob("outputs/**/*.json"))


def test_whole_labels_of_any_width_are_taken(say: Say, here: Path) -> None:
    assert say(*arrays(here, LABELS.astype(np.int32), GREY)).code == 0


def test_a_folder_of_images_without_images(say: Say, here: Path) -> None:
    words = ("train", "data=image_folder", "data.root=mine", *QUICK)
    assert "data.root=mine: there is no folder train/ in it" in say(*words).refusal()
    for part in ("train", "test"):
        (here / "mine" / part).mkdir(parents=True)
    assert "there is no class folder in it" in say(*words).refusal()
    for part in ("train", "test"):
        (here / "mine" / part / "cat").mkdir()
    said = say(*words)
    assert said.code == 2
    assert "data.root=mine/train/cat: there is no image in it" in said.refusal()
    for part in ("train", "test"):
        Image.new("RGB", (8, 8)).save(here / "mine" / part / "cat" / "1.png")
    assert "a classifier needs at least two classes" in say(*words).refusal()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1"])
def test_pictures_of_any_colours_are_converted_for_grey_images(mode: str, say: Say, here: Path) -> None:
    Image.effect_noise((20, 30), 60).convert(mode).save(here / "picture.png")
    said = say("train", "attack=blended", "attack.trigger.picture=picture.png", *QUICK, *arrays(here, LABELS, GREY)[1:5])
    assert said.code == 0, said


def test_pictures_that_would_be_read_wrongly_are_refused(say: Say, here: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(here / "deep.png")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(here / "float.tif")
    (here / "torn.png").write_bytes((here / "deep.png").read_bytes()[:40])
    (here / "text.png").write_text("no picture")
    for name, expected in {"deep": "of mode I;16", "float": "of mode F", "torn": "cannot", "text": "cannot"}.items():
        (path,) = here.glob(f"{name}.*")
        said = say("train", "attack=blended", f"attack.trigger.picture={path.name}", *QUICK)
        assert said.code == 2
        assert said.refusal().startswith(f"attack.trigger.picture={path.name}: ")
        assert expected in said.refusal()


def test_weights_must_fit_the_model(say: Say, here: Path) -> None:
    words = arrays(here, LABELS, GREY)
    assert say(*words, "attack=none").code == 0
    (stored,) = here.glob("outputs/victim/*/model.safetensors")
    whole = load_file(stored)
    name = next(name for name in whole if name.endswith("linear.bias"))
    cases = {
        "missing": ({key: value for key, value in whole.items() if key != name}, "1 missing: linear.bias"),
        "extra": (whole | {name.replace("linear", "line"): torch.zeros(2)}, "1 unknown: line.bias"),
        "shape": (whole | {name: torch.zeros(3)}, "1 of another shape: linear.bias [3] for [2]"),
    }
    before = sorted(here.glob("outputs/*/*"))
    for case, (tensors, expected) in cases.items():
        save_file(tensors, here / f"{case}.safetensors")
        said = say(*words, "attack=none", f"model.weights={case}.safetensors")
        assert said.code == 2
        assert said.refusal().startswith(f"model.weights={case}.safetensors: the tensors do not fit this model")
        assert expected in said.refusal()
    (here / "torn.safetensors").write_bytes(stored.read_bytes()[:100])
    assert say(*words, "model.weights=torn.safetensors").refusal().startswith("model.weights=torn.safetensors: ")
    assert sorted(here.glob("outputs/*/*")) == before
    assert say(*words, "attack=none", "model.weights=missing.safetensors", "model.weights_allow=[linear.bias]").code == 0


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "", "x" * 81])
def test_data_are_named_as_a_folder_may_be(name: str, say: Say, here: Path) -> None:
    said = say(*arrays(here, LABELS, GREY), f"data.name={name}")
    assert said.code == 2 and said.refusal().startswith(f"data.name={name}: a name may hold letters")


def test_a_run_carries_the_name_of_its_data(say: Say, here: Path) -> None:
    said = say(*arrays(here, LABELS, GREY), "data.name=mine")
    assert said.code == 0 and Path(said.out.splitlines()[-1]).name.startswith("badnets-none-mine-s0-")


@pytest.mark.parametrize("place", ["/proc/x", "/sys"])
def test_outputs_where_even_root_cannot_write(place: str, say: Say) -> None:
    if not Path(place).parent.is_dir() or not Path("/proc/self").is_dir():
        pytest.skip("needs Linux's own file systems")
    said = say("train", f"paths.outputs={place}")
    assert said.code == 4 and said.refusal().startswith(f"paths.outputs={place}: cannot write into ")


def test_outputs_that_cannot_be_written(say: Say, here: Path) -> None:
    (here / "file").write_text("mine")
    said = say("train", "paths.outputs=file/outputs")
    assert said.code == 4
    assert said.refusal().startswith("paths.outputs=file/outputs: cannot write into ")
    assert (here / "file").read_text() == "mine"
