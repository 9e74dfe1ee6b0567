"""What a logger reads back from a run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score

from testbed.files import write_json
from testbed.logger.finished import Finished
from testbed.logger.privacy import without_paths


def with_scores(folder: Path, scores: np.ndarray, suspicious: np.ndarray) -> Finished:
    save_file({"scores": scores, "suspicious": suspicious}, folder / "scores.safetensors")
    return Finished(folder)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 3000), ties=st.booleans())
def test_a_thinned_roc_curve_keeps_its_ends_and_its_area(seed: int, size: int, ties: bool, tmp_path_factory) -> None:
    random = np.random.default_rng(seed)
    suspicious = np.arange(size) % 2 == 1
    scores = random.normal(size=size) + suspicious
    scores = scores.round(1) if ties else scores
    curve = with_scores(tmp_path_factory.mktemp("run"), scores, suspicious).roc_curves["scores"]
    assert len(curve) <= 200 and (np.diff(curve, axis=0) >= 0).all()
    assert curve[0].tolist() == [0, 0] and curve[-1].tolist() == [1, 1]
    assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(roc_auc_score(suspicious, scores), abs=0.01)


@pytest.mark.parametrize("suspicious", [np.zeros(4, bool), np.ones(4, bool)])
def test_one_kind_of_rows_has_no_roc_curve(suspicious: np.ndarray, tmp_path: Path) -> None:
    assert with_scores(tmp_path, np.arange(4.0), suspicious).roc_curves == {}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/home/me/private rows/a.csv", "a.csv"),
        ("~/models/mine", "mine"),
        ("OSError: [Errno 2] no file: '/home/me/a.csv'", "OSError: [Errno 2] no file: 'a.csv'"),
        ("data.root=/home/me/cats in every run", "data.root=cats in every run"),
        ("C:\\Users\\me\\a.csv is not there", "a.csv is not there"),
        ("error:/home/me/a.csv", "error:a.csv"),
        ("at file:///home/me/a.csv, line 3", "at a.csv, line 3"),
        ("cluster:/mnt/me/a.csv", "cluster:a.csv"),
        ("no file /home/me/private rows/a.csv", "no file a.csv"),
        ("no file '/home/me/the rows of my own secret project/a.csv'", "no file 'a.csv'"),
        ("cannot copy /home/me/a.csv to /mnt/b.csv", "cannot copy a.csv to b.csv"),
        ("C:\\Program Files\\mine\\a.csv is not there", "a.csv is not there"),
        ("s3://bucket/a/b and file://a", "s3://bucket/a/b and a"),
        ({"/home/me/a.csv": 1}, {"a.csv": 1}),
        (
            "datasets/cats and/or dogs 1/2 s, https://example.org/a/b",
            "datasets/cats and/or dogs 1/2 s, https://example.org/a/b",
        ),
        ({"files": ["/a/b.txt", 3, None, "../c/d.txt"]}, {"files": ["b.txt", 3, None, "../c/d.txt"]}),
    ],
)
def test_where_files_lie_is_not_shown(said: object, shown: object) -> None:
    assert without_paths(said) == shown


def test_curves_are_named_by_the_role_of_their_victims(tmp_path: Path) -> None:
    roles = {"undefended": "a", "defended": "b", "clean_twin": "c", "lost": "d"}
    for number, name in enumerate("abc"):
        (tmp_path / "victim" / name).mkdir(parents=True)
        write_json(tmp_path / "victim" / name / "curve.json", [{"epoch": 1.0, "loss": float(number)}])
    folder = tmp_path / "train" / "a-run"
    folder.mkdir(parents=True)
    write_json(folder / "run.json", {"victims": roles})
    (row,) = Finished(folder).history
    assert row == {"epoch": 1.0, "undefended/loss": 0.0, "defended/loss": 1.0, "clean_twin/loss": 2.0}
