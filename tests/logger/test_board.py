"""A leaderboard as tables, and as a run of its own in W&B."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from testbed.leaderboard import Leaderboard, Population
from testbed.logger.board import TABLES, digest, rows
from testbed.logger.none import NoLogger
from testbed.logger.view import board_view, tag
from testbed.logger.wandb import WandbLogger
from testbed.statistics import Interval

from .board import GROUP, leaderboard
from .kept import kept_rows, kept_run, kept_summary, values


def table(board: Leaderboard, name: str) -> list[dict[str, Any]]:
    columns, data = rows(board, name)
    return [dict(zip(columns, row, strict=True)) for row in data]


def test_every_number_of_a_cell_has_its_interval_n_and_seeds() -> None:
    undefended, defended = table(leaderboard(), "cells")
    assert (undefended["method"], undefended["attack_success_rate"]) == ("none", pytest.approx(0.91))
    assert (defended["attack_success_rate_n"], defended["attack_success_rate_seeds"]) == (3, "0:0.25 1:0.26 2:0.27")
    low, high = defended["attack_success_rate_low"], defended["attack_success_rate_high"]
    assert low == pytest.approx(0.26 - 0.02484, abs=1e-4) and high == pytest.approx(0.26 + 0.02484, abs=1e-4)  # t = 4.303
    assert (defended["done"], defended["asked"], defended["weak"], defended["not_done"]) == (3, 3, False, "")


def test_standings_are_in_order_and_differences_have_their_pairs() -> None:
    assert [row["method"] for row in table(leaderboard(), "leaderboard")] == ["mine", "none"]
    found = {row["measure"]: row for row in table(leaderboard(), "differences") if row["method"] == "mine"}
    told = found["attack_success_rate"]
    assert (told["difference"], told["difference_n"], told["p"]) == (pytest.approx(-0.65), 3, None)  # below 6 pairs, no mark


def test_what_failed_is_said_without_the_machines_paths() -> None:
    board = leaderboard(lost="OSError: no file /home/somebody/private/rows.csv")
    _, defended = table(board, "cells")
    assert defended["not_done"] == "s2: failed (OSError: no file rows.csv)"
    assert (defended["done"], defended["asked"], defended["attack_success_rate_n"]) == (2, 3, 2)


def test_no_name_tells_where_files_lie() -> None:
    board = leaderboard()
    world = "tiny (data.root=/home/alice/rows)"
    cells = tuple(replace(cell, world=world) for cell in board.cells)
    standings = tuple(replace(one, world=world, adaptive=(f"badnets in {world}: 1",)) for one in board.standings)
    population = Population(world, "nc", Interval(1.0, 0.4, 1.0, 5), 2, 3, None, None)
    hidden = replace(board, title=world, cells=cells, standings=standings, populations=(population,), departures=(world,))
    hidden = replace(hidden, clean_budget=world, left_out={(world, "sig", 0.1): "weak"})
    config = board_view(hidden, GROUP).configuration()
    told = str([config, *(rows(hidden, name) for name in TABLES)])
    assert "alice" not in told and told.count("data.root=rows") > 8
    assert config["left_out"] == ["tiny (data.root=rows) sig 0.1: weak"]


def test_a_mean_over_some_cells_says_so() -> None:
    board = leaderboard()
    standings = tuple(
        replace(one, partial={"attack_success_rate": "1 of 2 cells"} if one.method == "mine" else {}) for one in board.standings
    )
    found = {row["method"]: row for row in table(replace(board, standings=standings), "leaderboard")}
    assert found["mine"]["attack_success_rate_partial"] == "1 of 2 cells"
    assert found["none"]["attack_success_rate_partial"] is None


def test_a_digest_tells_boards_apart() -> None:
    board = leaderboard()
    others = [leaderboard(2), leaderboard(lost="why"), replace(board, departures=("seeds 0",)), replace(board, hash="f" * 12)]
    others.append(replace(board, left_out={("digits", "sig", 0.1): "weak"}))
    assert len({digest(one) for one in (board, *others)}) == 6 and digest(leaderboard()) == digest(board)


def test_a_tag_is_short_enough_and_keeps_the_hash() -> None:
    assert tag(GROUP) == GROUP
    assert len(tag("a" * 80 + "-0123456789ab")) == 64 and tag("a" * 80 + "-0123456789ab").endswith("a-0123456789ab")


def test_a_board_is_one_run_of_its_group_however_often_it_is_shown(outputs) -> None:
    outputs.mkdir(exist_ok=True)
    for seeds in (2, 3, 3):
        WandbLogger().show_board(leaderboard(seeds), outputs, GROUP)
    kept = kept_run(outputs, f"leaderboard-{GROUP}")  # and `records` found one folder, not three
    assert (kept.run_group, kept.job_type, list(kept.tags)) == (GROUP, "leaderboard", [GROUP])
    config = values(kept.config.update)
    assert (config["suite_hash"], config["baseline"], config["clean_budget"]) == ("0123456789ab", "none", "200 clean rows")
    assert {"n_cells": 2, "n_runs_wanted": 6, "n_runs_done": 6}.items() <= kept_summary(outputs).items()
    (row,) = kept_rows(outputs)
    for name in set(TABLES) - {"populations"}:
        (file,) = outputs.glob(f"wandb/offline-run-*/files/{row[f'{name}/path']}")
        told = json.loads(file.read_text())
        assert [told["columns"], told["data"]] == json.loads(json.dumps(rows(leaderboard(3), name)))


def test_a_board_is_never_in_the_way(outputs, capfd) -> None:
    (outputs / "wandb").write_text("a file in the way")
    WandbLogger().show_board(leaderboard(), outputs, GROUP)
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "leaderboard is not shown" in err and "testbed sync" in err
    WandbLogger(mode="disabled").show_board(leaderboard(), outputs, GROUP)
    NoLogger().show_board(leaderboard(), outputs, GROUP)
    assert capfd.readouterr() == ("", "")
