"""What `report` keeps apart: settings of the user's, code and data of another day, rows by which nobody is ranked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.index import Entry, write
from testbed.pipeline.boards import boards_of
from testbed.pipeline.gather import gathered
from testbed.pipeline.report import report
from testbed.pipeline.rows import COLUMNS
from testbed.plan import Choice, planned
from testbed.rules import largest_family, seeds_to_decide
from testbed.suite import read_suite

from .left import leave
from .planned import SUITE, board_in, made, plan_in


def test_a_run_with_a_setting_of_the_users_is_no_draw_of_the_suites_own_cell(tmp_path: Path) -> None:
    for choice, accuracy in (((), 0.9), (("trainer.max_epochs=1",), 0.1)):
        for request in plan_in(tmp_path, settings=choice).requests:
            made(tmp_path, request, accuracy=accuracy, folder=f"{request.key}-{request.key}", key=request.key)
    found = {cell.world: cell for cell in board_in(tmp_path).leaderboard.cells if (cell.method, cell.rate) == ("nad", 0.05)}
    assert {world: len(cell.trials) for world, cell in found.items()} == {"small": 2, "small (trainer.max_epochs=1)": 2}
    assert [cell.spreads["clean_accuracy"].interval.mean for cell in found.values()] == [0.9, 0.1]


OLD, NEW = ({"sources": {"testbed.fit": digest}, "made_at": f"202{year}-01-01T00:00:00+00:00"} for digest, year in ("15", "26"))


@pytest.mark.parametrize("which", ["code", "data"])
def test_cells_of_other_code_or_data_than_the_newest_are_stale(tmp_path: Path, which: str) -> None:
    """The core was edited, or the images were, and one method alone was run again."""
    for request in plan_in(tmp_path).requests:
        state = NEW if request.method == "nad" else OLD
        data = {"contents": {"train": state["made_at"]}, "made_at": state["made_at"]}
        made(tmp_path, request, **(state if which == "code" else data))
    cells = {(cell.row, cell.method): cell for cell in board_in(tmp_path).leaderboard.cells}
    assert {trial.status for (_, method), cell in cells.items() for trial in cell.trials if method == "nad"} == {"done"}
    assert {trial.status for (_, method), cell in cells.items() for trial in cell.trials if method == "none"} == {"stale"}
    assert not any(cell.contrasts or cell.rank for cell in cells.values() if cell.method == "none")


def test_a_methods_own_module_makes_no_other_stale(tmp_path: Path) -> None:
    for request in plan_in(tmp_path).requests:
        own = {"mine.nad": "edited"} if request.method == "nad" else {}
        made(tmp_path, request, sources={"testbed.fit": "1", **own})
    board = board_in(tmp_path).leaderboard
    assert board.done == board.wanted == 12


def test_plain_boards_rank_runs_of_one_state_of_the_code(tmp_path: Path) -> None:
    for name, state in (("none", OLD), ("nad", NEW)):
        leave(tmp_path, names={"defence": name}, measures={"clean_accuracy": 0.5}, **state)
    board = board_in(tmp_path).leaderboard
    assert {trial.method: trial.status for cell in board.cells for trial in cell.trials} == {"none": "stale", "nad": "done"}


@pytest.mark.parametrize(("settings", "group"), [({}, ""), ({"defence": {"added": 1}}, f"tiny-{SUITE.hash}")])
def test_runs_of_a_suite_that_were_made_again_are_no_board_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], group: str
) -> None:
    """Old code left runs of the same settings, or of settings that have since grown: these tell that the suite made them."""
    for request in plan_in(tmp_path).requests:
        made(tmp_path, request, group=group, **OLD)
        grown = {"attack": {"poison_rate": request.rate}, **settings}
        made(tmp_path, request, group=group, settings=grown, **NEW)
    assert [board.leaderboard.title for board in boards_of(tmp_path, gathered(tmp_path, COLUMNS))] == ["tiny"]
    report(runs=str(tmp_path), paths={"outputs": str(tmp_path)}, measures=None, format="table")
    told = capsys.readouterr()
    assert "runs: 12 of 12 done" in told.out and "\ntrain  " not in told.out
    assert len([line for line in told.err.splitlines() if line.startswith("not counted, ")]) == 12


def test_what_nobody_is_ranked_by_stands_in_the_head_and_partial_means_are_marked(
    tmp_path: Path, told: Callable[..., str]
) -> None:
    for request in plan_in(tmp_path).requests:
        last = (request.rate, request.seed, request.method) == (0.05, 1, "nad")
        if request.rate == 0.01:
            write(tmp_path, request.key, Entry("skipped", "needs a convolutional model"))
        elif last:
            write(tmp_path, request.key, Entry("failed", "ValueError: no"))
        else:
            made(tmp_path, request)
    said = told()
    assert "\nleft out of ranks and means: small badnets 0.01 (no run is done: 4 skipped)\n" in said
    standings = said[said.index("standings") : said.index("without an attack")]
    assert "0 of 1 cells" in standings and "k of n cells: so many cells are whole" in standings and "1.000 (1.000)" in standings


def test_differences_that_cannot_be_decided_say_from_how_many_pairs_on(tmp_path: Path, told: Callable[..., str]) -> None:
    for request in plan_in(tmp_path).requests:
        made(tmp_path, request)
    assert "cannot be decided below 7 pairs" in told()  # two rates, one measure


def test_the_seeds_that_a_suite_needs_are_known_before_any_run() -> None:
    whole = planned(SUITE, Choice()).requests
    told = "from 7 seeds on a difference can be significant (2 tests a method, Holm); 2 are asked for"
    assert seeds_to_decide(SUITE, whole) == told
    assert seeds_to_decide(SUITE.model_copy(update={"families": ()}), whole) == "this suite tests no differences"
    for name, tests in (("images_quick", 8), ("images_cifar10", 20), ("language_degrade", 2), ("detectors_quick", 0)):
        suite = read_suite(Path(__file__).parents[2] / "conf" / "suite" / f"{name}.yaml")
        assert largest_family(suite, planned(suite, Choice()).requests, suite.families) == tests


def test_trials_decide_outcomes_alone() -> None:
    families = (("attack_success_rate",), ("clean_accuracy",))
    aimed = SUITE.model_copy(update={"rates": {}, "targets": 4, "families": families})
    told = seeds_to_decide(aimed, planned(aimed, Choice(seeds=(0,))).requests)
    assert told == (
        "outcomes: from 6 trials on a difference can be significant (1 test a method, Holm); 4 are asked for; "
        "other measures: from 6 seeds on a difference can be significant (1 test a method, Holm); 1 is asked for"
    )
    mixed = aimed.model_copy(update={"families": (("attack_success_rate", "clean_accuracy"),)})
    told = seeds_to_decide(mixed, planned(mixed, Choice()).requests)
    assert told == (
        "outcomes: from 7 trials on a difference can be significant (2 tests a method, Holm); 8 are asked for; "
        "other measures: from 7 seeds on a difference can be significant (2 tests a method, Holm); 2 are asked for"
    ), "each measure is paired by itself, and corrected by its whole family"
    outcomes = aimed.model_copy(update={"families": (("attack_success_rate", "target_flagged"),)})
    told = seeds_to_decide(outcomes, planned(outcomes, Choice()).requests)
    assert told == "from 7 trials on a difference can be significant (2 tests a method, Holm); 8 are asked for"
