"""Trials of targeted attacks: what they share, what tells them apart, and how reports pool them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from testbed.api import Invalid
from testbed.attack.gradient_matching import GradientMatching
from testbed.detector.deep_knn import DeepKnn
from testbed.detector.teco import TeCo
from testbed.files import read_json, write_json
from testbed.manifest import read_manifest
from testbed.pipeline.boards import boards_of
from testbed.pipeline.detect import detect
from testbed.pipeline.gather import gathered
from testbed.pipeline.picture import picture
from testbed.pipeline.rows import COLUMNS
from testbed.plan import Choice, planned, store
from testbed.statistics import over_trials
from testbed.suite import Suite

from .conftest import World
from .left import leave
from .planned import SUITE, made

ATTACK = GradientMatching(
    poison_rate=0.02, max_change=16, iterations=2, restarts=1, step_size=0.1, batch_size=64, augment=True, rounded=False
)
TARGETED = Suite(**{**SUITE.model_dump(), "name": "aimed", "rates": {}, "targets": 4, "families": [["attack_success_rate"]]})


def test_trials_share_the_twin_and_the_surrogate_and_each_has_a_target_of_its_own(world: World) -> None:
    first, other = (world(attack=ATTACK, trial=trial) for trial in (0, 3))
    again = world(attack=ATTACK, trial=3, paths={"outputs": str(world.outputs.parent / "elsewhere")})
    assert [folder.name.rpartition("-")[0] for folder in (first, other)] == [
        "gradientmatching-nodefence-digits-s0",
        "gradientmatching-nodefence-digits-s0-t3",
    ]
    assert len(world.made(first)) == 3 and len(world.made(other)) == 1  # surrogate, victim and twin; then another victim
    victims = [read_json(folder / "run.json")["victims"] for folder in (first, other)]
    assert victims[0]["clean_twin"] == victims[1]["clean_twin"] and victims[0]["undefended"] != victims[1]["undefended"]
    assert (again / "result.json").read_bytes() == (other / "result.json").read_bytes()
    facts = [read_json(folder / "run.json") for folder in (first, other)]
    assert facts[0]["cell"] == facts[1]["cell"] and facts[0]["settings"] != facts[1]["settings"]
    told = [read_manifest(folder / "manifest.json") for folder in (first, other)]
    assert [manifest.trial for manifest in told] == [0, 3] and told[0].streams["attack"] != told[1].streams["attack"]
    for manifest in told:
        assert manifest.target is not None and set(manifest.new_labels) != {manifest.target.label}
        assert world.splits.test.labels[manifest.target.row] == manifest.target.label  # type: ignore[attr-defined]
    assert told[0].target != told[1].target
    measures = read_json(first / "result.json")
    assert measures["measures"]["targeted"] is True and measures["counts"]["attack_success_rate"] == 1


def test_detectors_and_pictures_have_the_victim_of_a_trial(world: World) -> None:
    trained = world(attack=ATTACK, trial=3)
    asked = {**world.parts, "attack": ATTACK, "trial": 3}
    looked = picture(**asked)
    del asked["defence"]
    detected = detect(**asked, detector=DeepKnn())
    undefended = read_json(trained / "run.json")["victims"]["undefended"]
    for folder, name in ((looked, "nodefence"), (detected, "deepknn")):
        assert folder.name.rpartition("-")[0] == f"gradientmatching-{name}-digits-s0-t3"
        assert f"victim/{undefended}" in world.reused(folder) and not world.made(folder)
        assert read_manifest(folder / "manifest.json").target == read_manifest(trained / "manifest.json").target
    found = read_json(detected / "result.json")
    assert found["measures"]["targeted"] is True and found["counts"]["auroc"] == 200
    queries = read_json(detect(**asked, detector=TeCo(("brightness", "contrast"))) / "result.json")
    assert queries["measures"]["auroc"] is None and "nothing in them to detect" in queries["reasons"]["auroc"]
    assert queries["measures"]["false_alarm_rate"] is None and "false_alarm_rate" not in queries["reasons"], "it has no rule"
    assert queries["counts"]["auroc"] == 100, "the target is shown as it is, and the whole test is clean"
    for verb in (picture, partial(detect, detector=DeepKnn())):
        with pytest.raises(Invalid, match="made for no single target"):
            verb(**{name: part for name, part in {**world.parts, "trial": 1}.items() if name != "defence" or verb is picture})


def test_an_attack_without_trials_has_none_and_leaves_no_word_of_them(world: World) -> None:
    with pytest.raises(Invalid, match="Backdoor is made for no single target"):
        world(trial=1)
    with pytest.raises(Invalid, match="trial"):
        world(attack=ATTACK, trial=-1)
    folder = world()
    assert not {"trial", "target"} & read_json(folder / "manifest.json").keys()
    assert "targeted" not in read_json(folder / "result.json")["measures"]


def outcome(hit: float) -> dict[str, Any]:
    return {"attack_success_rate": hit, "robust_accuracy": 1 - hit, "defence_effectiveness": 1 - hit / 2, "targeted": True}


def leave_trials(root: Path, hits: Mapping[tuple[int, int], float], **facts: Any) -> None:
    for (seed, trial), hit in hits.items():
        leave(root, seed=seed, measures={"clean_accuracy": 0.9, **outcome(hit)}, settings={"trial": trial}, **facts)


def test_a_table_pools_trials_with_wilsons_interval_and_never_with_students(tmp_path: Path, told: Callable[..., str]) -> None:
    hits = {(seed, trial): float(trial < 3 - seed) for seed in (0, 1) for trial in range(5)}
    cell = "1234567812345678"
    for one, hit in hits.items():
        name = f"run-s{one[0]}-t{one[1]}"
        leave_trials(tmp_path, {one: hit}, cell=cell, name=name, key=f"{one[0]}{one[1]}".ljust(16, "0"))
    said = told()
    legend = " ".join(said.split())  # which is wrapped where a line ends
    interval = over_trials(list(hits.values()))
    assert f"5 of 10 trials [{interval.low:.3f}, {interval.high:.3f}]" in said and "3/5 2/5" in said
    assert "2 (10 runs)" in said and "Wilson's 95 % interval over trials" in legend and "(k of n)" not in said
    assert f"0.750 over 10 trials [{over_trials([1 - hit / 2 for hit in hits.values()]).low:.3f}" in said
    assert "0.900 ± 0.000" in said  # clean accuracy is one of two seeds
    rows = list(csv.DictReader(io.StringIO(told("csv"))))
    assert [(row["seed"], row["trial"]) for row in rows] == [(str(seed), str(trial)) for seed, trial in hits]
    assert "5 of 10 trials" in told("markdown") and "5 of 10 trials" in told("latex")
    whole, *runs = csv.DictReader(io.StringIO(told("backdoorbench")))
    assert (whole["n_seeds"], whole["test_asr_n"], whole["test_acc_n"], whole["test_asr"]) == ("2", "10", "2", "50.0000")
    assert whole["interval"].startswith("Wilson 95 % over trials") and [run["trial"] for run in runs] == list("0123401234")


def test_a_suite_of_trials_is_pooled_tested_by_pairs_of_trials_and_shown_on_its_page(
    tmp_path: Path, told: Callable[..., str]
) -> None:
    plan = planned(TARGETED, Choice())
    store(plan, ["testbed"], tmp_path)
    lost = next(
        one for one in plan.requests if one.method == "nad" and one.attack != "none" and (one.seed, one.trial) == (1, 3)
    )
    for request in plan.requests:
        if request is not lost:
            aimed = {} if request.attack == "none" else outcome(float(request.method == "none" and request.trial > 0))
            folder = made(tmp_path, request, settings={"trial": request.trial}, name=f"run-s{request.seed}-t{request.trial}")
            result = read_json(folder / "result.json")
            before = {"undefended_attack_success_rate": float(request.trial > 0), "clean_twin_attack_success_rate": 0.0}
            result["measures"] |= {**aimed, **before} if aimed else {}
            write_json(folder / "result.json", result)
    board = boards_of(tmp_path, gathered(tmp_path, COLUMNS))[0].leaderboard
    none, nad = (
        next(cell for cell in board.cells if (cell.attack, cell.method) == ("badnets", name)) for name in ("none", "nad")
    )
    spread = none.spreads["attack_success_rate"]
    assert spread.interval == over_trials([0, 1, 1, 1] * 2) and spread.guaranteed is None and spread.seeds == {0: 0.75, 1: 0.75}
    assert none.spreads["clean_accuracy"].trials is None and none.spreads["clean_accuracy"].interval.n == 2
    contrast = nad.contrasts["attack_success_rate"]
    assert contrast.difference == (pytest.approx(-5 / 7), None, None, 7) and contrast.p == pytest.approx(2 / 2**5)
    assert not none.weak and nad.rank is None and board.missing == ["missing: small badnets nad s1 t3"]
    assert "6 of 8 trials" in told() and "6 of 8 trials" in (Path(told("html").strip())).read_text(encoding="utf-8")


def test_seeds_of_a_targeted_attack_are_trials_too(tmp_path: Path, told: Callable[..., str]) -> None:
    leave_trials(tmp_path, {(seed, 0): float(seed == 0) for seed in range(3)})
    interval = over_trials([1, 0, 0])
    assert f"1 of 3 trials [{interval.low:.3f}, {interval.high:.3f}]" in told()
