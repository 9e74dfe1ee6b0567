"""What a logger reads back from a run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score

from testbed.logger.finished import Finished
from testbed.record import write_json


def with_scores(folder: Path, scores: np.ndarray, suspicious: np.ndarray) -> Finished:
    save_file({"scores": scores, "suspicious": suspicious}, folder / "scores.safetensors")
    return Finished(folder, folder)


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
    ("victims", "roles"),
    [
        ({"a": (True, 9), "b": (False, 9)}, ["victim", "clean_twin"]),
        ({"b": (False, 9)}, ["victim", "clean_twin"]),
        ({"a": (True, 5), "b": (True, 9), "c": (False, 9)}, ["victim", "victim_2", "clean_twin"]),
    ],
)
def test_curves_are_named_by_the_mark_of_their_victims(victims, roles, tmp_path: Path) -> None:
    for name, (backdoored, rows) in victims.items():
        (tmp_path / "victim" / name).mkdir(parents=True)
        write_json(tmp_path / "victim" / name / "card.json", {"backdoored": backdoored, "rows": rows})
        write_json(tmp_path / "victim" / name / "curve.json", [{"epoch": 1.0, "loss": float(rows)}])
    write_json(tmp_path / "run.json", {"made": [f"victim/{name}" for name in victims] + ["poison/p"], "reused": []})
    (row,) = Finished(tmp_path, tmp_path).history
    assert row == {"epoch": 1.0, **{f"{role}/loss": 5.0 if role == "victim_2" else 9.0 for role in roles}}
