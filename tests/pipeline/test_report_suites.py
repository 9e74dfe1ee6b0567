"""What `report` says of suites: how much of them was run, what is missing and why, where methods stand."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.api import Invalid
from testbed.index import Entry, write
from testbed.pipeline.boards import boards_of
from testbed.pipeline.gather import gathered
from testbed.pipeline.report import report
from testbed.pipeline.rows import COLUMNS
from testbed.plan import Choice, planned, store
from testbed.suite import Part, Suite

from .left import leave
from .planned import SUITE, board_in, made, plan_in


def test_a_whole_suite_says_so_and_shows_standings_then_cells(tmp_path: Path, told: Callable[..., str]) -> None:
    for request in plan_in(tmp_path).requests:
        made(tmp_path, request, success=0.1 if request.method == "nad" else 0.95)
    said = told()
    lines = said.splitlines()
    assert lines[0] == f"suite tiny ({SUITE.hash}), train"
    assert lines[1:4] == ["clean budget: 10 rows a class", "departures from the suite: none", "runs: 12 of 12 done"]
    standings = said[said.index("standings") : said.index("without an attack")]
    order = [line.split()[0] for line in standings.splitlines() if line.strip().startswith(("nad", "none"))]
    assert order == ["nad", "none"] and "1.000 (1.000)" in standings and "2/2" in standings and "n = 4 runs" in standings
    assert "0.900 ± 0.000" in said[said.index("without an attack") : said.index("tiny: cells")]
    assert said[said.index("differences from none") :].count("-0.850 ± 0.000") == 2  # at two rates
    assert "*" not in said and "p 0." not in said  # two pairs


def test_what_is_missing_failed_or_killed_is_named_with_its_reason(tmp_path: Path, told: Callable[..., str]) -> None:
    requests = plan_in(tmp_path).requests
    failed = next(one for one in requests if one.method == "nad" and one.rate == 0.05 and one.seed == 1)
    killed, skipped = (
        next(one for one in requests if one.method == "nad" and one.rate == 0.01 and one.seed == s) for s in (0, 1)
    )
    gone, never = (
        next(one for one in requests if one.attack == "none" and one.method == "nad" and one.seed == s) for s in (0, 1)
    )
    for request in requests:
        if request not in (failed, killed, skipped, gone, never):
            made(tmp_path, request)
    place = leave(tmp_path, seed=1, names={"defence": "nad"}, status="failed", result={"reason": "ValueError: no"})
    write(tmp_path, failed.key, Entry("failed", "ValueError: no", place.relative_to(tmp_path).as_posix()))
    write(tmp_path, killed.key, Entry("killed", "out of memory"))
    write(tmp_path, skipped.key, Entry("skipped", "needs a convolutional model"))
    write(tmp_path, gone.key, Entry("done", folder="train/nad-1234"))
    said = told()
    assert "runs: 7 of 12 done" in said
    for line in (
        "failed: small badnets 0.05 nad s1 (ValueError: no)",
        "killed: small badnets 0.01 nad s0 (out of memory)",
        "skipped: small badnets 0.01 nad s1 (needs a convolutional model)",
        "missing: small none nad s0 (train/nad-1234 is not there any more)",
        "missing: small none nad s1",
    ):
        assert f"  {line}\n" in said
    assert "0/2" in said and "2 runs ended badly" in said
    nad = next(one for one in board_in(tmp_path).leaderboard.standings if one.method == "nad")
    assert (nad.mean_rank, nad.cells, nad.wanted, nad.failed, nad.n) == (None, 0, 2, 2, 1)


def test_a_trial_tells_costs_poison_and_names_and_runs_of_other_code_are_not_mixed(tmp_path: Path) -> None:
    requests = plan_in(tmp_path).requests
    for request in requests:
        old = request.method == "nad" and request.seed == 1
        made(tmp_path, request, **({"contents": {"train": "2"}, "made_at": "2025-01-01T00:00:00+00:00"} if old else {}))
    board = board_in(tmp_path).leaderboard
    trials = [trial for cell in board.cells for trial in cell.trials]
    assert {(trial.seconds, trial.peak_memory, trial.poison) for trial in trials if trial.seed == 0} == {(2.0, 5, "poison/0")}
    assert {(trial.method, trial.seed) for trial in trials if trial.status == "stale"} == {("nad", 1)}
    assert trials[0].names["model"] == "small_cnn" and trials[0].folder.startswith("train/run-s")


def test_departures_are_named_and_an_added_method_stands_beside_the_others(tmp_path: Path, told: Callable[..., str]) -> None:
    plan = plan_in(tmp_path, names=("mine",), methods={"mine": ("defence._target_=mine.Mine",)}, rates=(0.05,))
    for request in plan.requests:
        made(tmp_path, request, success=0.2)
    said = told()
    assert f"departures from the suite: {'; '.join(plan.departures)}\n" in said
    assert plan.departures and "mine added" in said
    assert {cell.method for cell in board_in(tmp_path).leaderboard.cells} == {"none", "mine"}


def test_other_runs_stand_beneath_and_are_boards_of_their_own(tmp_path: Path, told: Callable[..., str]) -> None:
    for request in plan_in(tmp_path).requests:
        made(tmp_path, request)
    for model in ("small_cnn", "resnet18"):
        for seed in (0, 1):
            leave(tmp_path, seed=seed, names={"attack": "blended", "model": model}, measures={"clean_accuracy": 0.321})
    leave(tmp_path, verb="detect", names={"detector": "strip"}, measures={"auroc": 0.75})
    leave(tmp_path, names={"attack": "blended"}, seed=2, status="failed")
    said = told()
    assert said.index("tiny: cells") < said.index("\ntrain  ") < said.index("\ndetect  ") and said.count("0.321 ± 0.000") == 2
    boards = boards_of(tmp_path, gathered(tmp_path, COLUMNS))
    assert [(board.leaderboard.title, board.leaderboard.hash != "") for board in boards] == [
        ("tiny", True),
        ("train", False),
        ("detect", False),
    ]
    train = boards[1].leaderboard
    assert {cell.world for cell in train.cells} == {"digits small_cnn", "digits resnet18"} and train.baseline == "none"
    assert train.missing == ["failed: digits small_cnn blended none s2 (as told)"]


def test_settings_that_differ_tell_cells_of_a_plain_board_apart(tmp_path: Path) -> None:
    for epochs, rate in ((5, 0.1), (10, 0.1), (10, 0.2)):
        settings = {"defence": {"epochs": epochs}, "attack": {"poison_rate": rate}}
        leave(tmp_path, names={"defence": "nad"}, settings=settings, measures={"clean_accuracy": epochs / 10})
    board = board_in(tmp_path).leaderboard
    assert [(cell.rate, cell.method) for cell in board.cells] == [
        (0.1, "nad (defence.epochs=10)"),
        (0.1, "nad (defence.epochs=5)"),
        (0.2, "nad (defence.epochs=10)"),
    ]
    assert board.baseline is None and {cell.world for cell in board.cells} == {"digits"}


def test_markdown_latex_and_backdoorbench_show_the_same_suite(tmp_path: Path, told: Callable[..., str]) -> None:
    for request in plan_in(tmp_path).requests:
        made(tmp_path, request, accuracy=0.9 + request.seed / 100)
    assert "- runs: 12 of 12 done\n" in told("markdown") and "| small | badnets | 0.05 | nad | 2 |" in told("markdown")
    assert "% runs: 12 of 12 done\n" in told("latex") and told("latex").count(r"\begin{table}") == 4
    rows = list(csv.DictReader(io.StringIO(told("backdoorbench"))))
    assert len(rows) == 6 + 12 and rows[0]["suite"] == f"tiny {SUITE.hash}"
    (over,) = [row for row in rows if (row["seed"], row["defense_name"], row["ratio"]) == ("all", "nad", "0.05")]
    assert (over["attack_name"], over["backbone"], over["n_seeds"], over["test_acc"]) == ("BadNet", "small_cnn", "2", "90.5000")


def test_a_suite_of_which_nothing_was_run_is_told_and_backdoorbench_needs_runs_of_train(
    tmp_path: Path, told: Callable[..., str]
) -> None:
    plan_in(tmp_path)
    said = told()
    assert "runs: 0 of 12 done" in said and "missing: small none none s0" in said
    other = tmp_path / "other"
    leave(other, verb="detect", names={"detector": "strip"}, measures={"auroc": 0.75})
    with pytest.raises(Invalid, match=r"format=backdoorbench: no run of train"):
        report(runs=str(other), paths={"outputs": str(other)}, measures=None, format="backdoorbench")


def test_from_six_seeds_on_a_difference_has_its_p_and_a_star_where_holm_leaves_it_small(
    tmp_path: Path, told: Callable[..., str]
) -> None:
    suite = SUITE.model_copy(update={"seeds": tuple(range(8)), "families": (("attack_success_rate",), ("clean_accuracy",))})
    plan = planned(suite, Choice(rates=(0.05,)))
    store(plan, [], tmp_path)
    for request in plan.requests:
        made(tmp_path, request, success=0.9 if request.method == "none" else 0.2 + request.seed / 100)
    said = told(measures="attack_success_rate")
    row = said[said.index("differences from none") :]
    assert "-0.665 ± 0.020*" in row and "p 0.008, Holm 0.008" in row and row.count("*") == 2 and "* p below 0.05" in row
    assert "8 pairs" in row and "p 1.000" in row  # of clean accuracy


DETECTION = {
    **{"name": "watch", "verb": "detect", "clean_budget": "none", "seeds": (0, 1), "baseline": None},
    **{"worlds": {"small": Part()}, "attacks": {"badnets": Part(settings=("attack=badnets",))}},
    "methods": {"nc": Part(settings=("detector=neural_cleanse",)), "strip": Part(settings=("detector=strip",))},
}


def test_detectors_of_rows_are_ranked_and_detectors_of_models_judged_over_all_models(
    tmp_path: Path, told: Callable[..., str]
) -> None:
    plan = planned(Suite(**DETECTION), Choice())
    store(plan, [], tmp_path)
    for request in plan.requests:
        attacked, twin = request.attack == "badnets", f"twin{request.seed}"
        measures = {"attack_success_rate": 0.9, "clean_twin_attack_success_rate": 0.0} if attacked else {}
        if request.method == "strip":
            measures |= {"auroc": 0.75} if attacked else {}
        else:
            index = 4.0 + request.seed if attacked else 1.5
            measures |= {"anomaly_index": index, "flagged_classes": [0] if attacked else []}  # type: ignore[dict-item]
            measures |= {"clean_twin_anomaly_index": 1.5, "clean_twin_flagged_classes": []}  # type: ignore[dict-item]
        place = leave(
            tmp_path,
            verb="detect",
            seed=request.seed,
            names={"attack": request.attack, "detector": request.method},
            measures=measures,
            victims={"undefended": f"victim{request.seed}" if attacked else twin, "clean_twin": twin},
        )
        write(tmp_path, request.key, Entry("done", folder=place.relative_to(tmp_path).as_posix()))
    said = told()
    models = said[said.index("over all models") : said.index("watch: cells")]
    assert "n = 2 clean, 2 backdoored" in models and "1.000" in models
    assert "0.000 [0.000, 0.658]" in models and "1.000 [0.342, 1.000]" in models  # Wilson, 0 and 2 of 2
    board = board_in(tmp_path).leaderboard
    ranks = {standing.method: (standing.mean_rank, standing.cells, standing.wanted) for standing in board.standings}
    assert ranks == {"strip": (1.0, 1, 1), "nc": (None, 0, 1)}


def test_the_page_shows_the_suite(tmp_path: Path, told: Callable[..., str]) -> None:
    for request in plan_in(tmp_path).requests[:-1]:
        made(tmp_path, request)
    page = Path(told("html").strip()).read_text(encoding="utf-8")
    assert SUITE.hash in page and "missing: small badnets 0.05 nad s1" in page
