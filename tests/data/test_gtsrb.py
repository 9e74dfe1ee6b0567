"""Traffic signs: real files, whole tracks, and files that are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testbed.api import Invalid
from testbed.data.gtsrb import CLASSES, gtsrb, training_files


def made(root: Path) -> None:
    """Two tracks of three frames for each of the 43 classes, and one test image of each; a frame's colour tells its track."""
    (root / "gtsrb" / "GTSRB" / "Final_Test" / "Images").mkdir(parents=True)
    table = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for label in range(len(CLASSES)):
        place = root / "gtsrb" / "GTSRB" / "Training" / f"{label:05d}"
        place.mkdir(parents=True)
        for track in range(3):
            for frame in range(3):
                Image.new("RGB", (40, 35), (label, track, frame)).save(place / f"{track:05d}_{frame:05d}.ppm")
        Image.new("RGB", (30, 35), (label, 9, 9)).save(root / "gtsrb/GTSRB/Final_Test/Images" / f"{label:05d}.ppm")
        table.append(f"{label:05d}.ppm;30;35;5;5;25;30;{label}")
    (root / "gtsrb" / "GT-final_test.csv").write_text("\n".join(table))


def test_whole_tracks_go_to_one_part(tmp_path: Path) -> None:
    made(tmp_path)
    splits = gtsrb(tmp_path, tmp_path / "cache", validation_per_class=1, reserve_per_class=2)
    parts = (splits.train, splits.validation, splits.reserve)
    assert [len(part) for part in (*parts, splits.test)] == [129, 129, 129, 43]
    tracks = [{tuple(colour) for colour in part.inputs[:, :2, 0, 0].tolist()} for part in parts]
    assert [len(part) for part in tracks] == [43, 43, 43] and len(set.union(*tracks)) == 129
    assert splits.test.inputs[:, 0, 16, 16].tolist() == splits.test.labels.tolist() == list(range(43))
    (tmp_path / "gtsrb/GTSRB/Final_Test/Images/00007.ppm").unlink()
    with pytest.raises(Invalid, match="damaged"):
        gtsrb(tmp_path, tmp_path / "cache")


@pytest.mark.real_data
def test_real_tracks_are_not_cut(data_root: Path, tmp_path: Path) -> None:
    splits = gtsrb(data_root, tmp_path)
    assert [len(part) for part in (splits.train, splits.validation, splits.reserve, splits.test)] == [7068, 258, 516, 3158]
    base, owner = data_root / "gtsrb", {}
    for name, label in training_files(base):
        owner.setdefault(np.asarray(Image.open(base / name)).transpose(2, 0, 1).tobytes(), (label, name.rsplit("_", 1)[0]))
    parts = (splits.train, splits.validation, splits.reserve)
    tracks = [{owner[image.tobytes()] for image in part.inputs.numpy()} for part in parts]
    assert sum(map(len, tracks)) == len(set.union(*tracks))
    assert splits.train.digest == gtsrb(data_root, tmp_path).train.digest


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid, match="GTSRB is not there") as caught:
        gtsrb(tmp_path, tmp_path)
    assert caught.value.parameter == "root"
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(Invalid, match="could not be downloaded"):
        gtsrb(tmp_path, tmp_path, download=True)
