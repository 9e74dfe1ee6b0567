"""Which rows count: weak attacks, attacks of which that is not known, rows that nobody has, and means over fewer cells."""

from __future__ import annotations

from dataclasses import replace

import pytest
from trials import RULES, cell_of, grid, standing_of, trial

from testbed.comparison import compared
from testbed.leaderboard import Trial
from testbed.rules import Rules


@pytest.mark.parametrize(("twin", "weak"), [(0.5, False), (0.51, True)])
def test_exactly_ten_points_are_not_weak(twin: float, weak: bool) -> None:
    measures = {"undefended_attack_success_rate": 0.6, "clean_twin_attack_success_rate": twin}
    board = compared([trial("none", 0, 0.6, measures=measures)], RULES)
    assert cell_of(board, "none").weak is weak


def against(method: str, undefended: float, seed: int = 0) -> Trial:
    """A run against an attacker who made a poison for this very method."""
    measures = {"undefended_attack_success_rate": undefended}
    own = {"attack": "hunter", "poison": f"poison/{method}{seed}", "adaptive": method != "none"}
    return trial(method, seed, 0.0, measures=measures, **own)


def test_a_method_with_its_own_poison_is_weak_or_not_for_itself_in_whatever_order() -> None:
    trials = [against("none", 0.9), against("mine", 0.05), against("other", 0.9)]
    for order in (trials, trials[::-1], trials[:2], trials[1::-1]):
        board = compared(order, replace(RULES, counted=("hunter",)))
        found = {cell.method: cell.weak for cell in board.cells}
        assert found == {name: name == "mine" for name in found} and found["mine"]
    alone = Rules("made up", "train", None)
    assert [cell.weak for cell in compared(trials, alone).cells] == [False, True, False]


def test_the_baseline_alone_decides_whether_a_shared_attack_is_weak() -> None:
    strong, faint = ({"undefended_attack_success_rate": success} for success in (0.12, 0.0))
    trials = [trial("none", 0, 0.1, measures=strong), trial("mine", 0, 0.0, measures=strong)]
    for seeds in ((), (1,), (1, 2)):
        more = [trial("more", seed, 0.0, measures=faint) for seed in seeds]
        assert not any(cell.weak for cell in compared([*trials, *more], RULES).cells)


def test_without_a_number_of_the_clean_twin_a_row_is_not_counted_and_named() -> None:
    nobody = {"clean_twin_attack_success_rate": None}
    unknown = [trial(name, 0, 0.5, attack="odd", measures=nobody) for name in ("none", "mine")]
    board = compared([*grid(2, {"none": 0.0, "mine": 0.5}), *unknown], RULES)
    cell = cell_of(board, "mine", "odd")
    assert cell.unknown and not cell.weak and not cell.counted and cell.rank is None
    assert standing_of(board, "mine").wanted == 2
    assert board.left_out == {
        ("digits", "odd", 0.1): "success on the clean twin is not known, nor therefore whether the attack is weak"
    }


def test_an_attack_that_ended_badly_for_everybody_takes_nobodys_rank_away_and_one_still_to_come_does() -> None:
    trials = grid(2, {"none": 0.0, "mine": 0.5})
    for status, ranked in (("skipped", True), ("failed", True), ("missing", False), ("interrupted", False), ("stale", False)):
        other = [replace(trial(name, seed, attack="other"), status=status) for name in ("none", "mine") for seed in (0, 1)]
        board = compared([*trials, *other], RULES)
        assert (standing_of(board, "mine").mean_rank is not None) is ranked, status
        assert board.left_out == ({("digits", "other", 0.1): f"no run is done: 4 {status}"} if ranked else {})


def test_weak_rows_and_rows_without_the_ranked_measure_are_left_out_with_the_reason() -> None:
    weak = [trial("none", 0, 0.0, attack="faint", measures={"undefended_attack_success_rate": 0.05})]
    other = [replace(trial("none", 0, attack="availability"), measures={"clean_accuracy": 0.5})]
    board = compared([*grid(1, {"none": 0.0}), *weak, *other, trial("none", attack="none", rate=None)], RULES)
    assert board.left_out == {
        ("digits", "faint", 0.1): "weak: the attack is not 10 points above its clean twin",
        ("digits", "availability", 0.1): "no run has defence_effectiveness",
    }


def test_means_over_fewer_cells_than_others_have_say_so() -> None:
    trials = grid(2, {"none": 0.0, "mine": 0.5, "partly": 0.5})
    trials[-1] = replace(trials[-1], status="failed", measures={})
    board = compared(trials, RULES)
    assert standing_of(board, "mine").partial == {}
    assert set(standing_of(board, "partly").partial.values()) == {"1 of 2 cells"}
    assert standing_of(board, "partly").partial.keys() == standing_of(board, "partly").means.keys()
    nobody = [replace(one, measures={**one.measures, "robust_accuracy": 0.5}) for one in trials if one.attack == "badnets"]
    board = compared([*nobody, *(one for one in trials if one.attack != "badnets")], RULES)
    assert "robust_accuracy" not in standing_of(board, "mine").partial  # no method has it against the other attack


def test_a_stale_run_did_not_end_badly() -> None:
    trials = grid(1, {"none": 0.0, "mine": 0.5})
    trials[-1] = replace(trials[-1], status="stale")
    assert standing_of(compared(trials, RULES), "mine").failed == 0
