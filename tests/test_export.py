"""Leaderboards as other people's tables."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.comparison import compared
from testbed.export import COLUMNS, backdoorbench, escape, latex
from testbed.leaderboard import Trial
from testbed.rules import Rules
from testbed.statistics import guaranteed, over_seeds, wilson
from testbed.table import Figure, Row

NAMES = {"data": "cifar10", "model": "preact_resnet18"}


def trial(seed: int, accuracy: float, success: float | None, *, attack: str = "badnets", status: str = "done") -> Trial:
    measures = {"clean_accuracy": accuracy, "attack_success_rate": success, "poison_rate_asked": 0.05}
    counts = {"clean_accuracy": 10000, "attack_success_rate": 9000}
    rate = None if attack == "none" else 0.1
    told = {"measures": measures, "counts": counts, "names": NAMES} if status == "done" else {}
    return Trial("objects", attack, rate, "fine_tuning", seed, status, **told)  # type: ignore[arg-type]


def rows(*trials: Trial) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(backdoorbench([compared(trials, Rules("a suite", "train", hash="12ab"))]))))


def test_a_cell_has_the_columns_of_results_csv_in_percent_with_both_intervals() -> None:
    whole, *runs = rows(trial(0, 0.91, 0.9), trial(1, 0.93, 0.1), trial(2, 0, None, status="failed"))
    assert tuple(whole)[:8] == (
        "dataset",
        "backbone",
        "attack_name",
        "defense_name",
        "ratio",
        "test_acc",
        "test_asr",
        "test_ra",
    )
    assert tuple(whole) == COLUMNS
    assert [whole[name] for name in COLUMNS[:8]] == [
        *("cifar10", "PreActResNet-18", "BadNet", "ft", "0.1"),
        *("92.0000", "50.0000", ""),
    ]
    assert (whole["seed"], whole["n_seeds"], whole["test_asr_n"], whole["suite"]) == ("all", "2", "2", "a suite 12ab")
    student, held = over_seeds([0.9, 0.1]), guaranteed([0.9, 0.1])
    assert float(whole["test_asr_low"]) == pytest.approx(100 * student.low, abs=1e-4)
    assert float(whole["test_asr_guaranteed_high"]) == pytest.approx(100 * held.high, abs=1e-4)
    assert [(run["seed"], run["n_seeds"]) for run in runs] == [("0", "1"), ("1", "1"), ("2", "1")]


def test_a_run_has_wilsons_interval_over_its_test_rows_and_one_that_failed_has_no_numbers() -> None:
    _, run, failed = rows(trial(0, 0.91, 0.9), trial(1, 0, None, status="failed"))
    interval = wilson(0.9, 9000)
    assert float(run["test_asr_low"]) == pytest.approx(100 * interval.low, abs=1e-4) and run["test_asr_n"] == "9000"
    assert run["test_acc_n"] == "10000" and run["interval"] == "Wilson 95 % over test rows"
    assert {failed[name] for name in COLUMNS if name.startswith("test_")} == {""}


def test_without_an_attack_the_ratio_is_0_and_without_a_swept_rate_it_is_the_recipes() -> None:
    assert rows(trial(0, 0.91, None, attack="none"))[0]["ratio"] == "0"
    kept = Trial(
        "w", "wanet", None, "mine", 0, "done", measures={"poison_rate_asked": 0.05, "clean_accuracy": 0.5}, names=NAMES
    )
    (over, run) = rows(kept)
    assert [over[name] for name in ("attack_name", "defense_name", "ratio")] == ["wanet", "mine", "0.05"]
    assert run["test_acc_n"] == run["test_acc_low"] == ""  # it does not say how many rows it was tested on


def test_a_latex_table_has_a_cell_for_each_column_and_notes_beneath() -> None:
    figures = {"clean_accuracy": Figure("0.95 ± 0.01", "0.94 0.96"), "attack_success_rate": None}
    made = latex(
        "a_b: 100 %",
        [
            Row({"world": "w", "method": "my_own"}, "2", figures, "weak & faint"),
            Row({"world": "w", "method": "none"}, "3", {**figures, "attack_success_rate": Figure("1.0")}),
        ],
    )
    assert r"\caption{a\_b: 100 \%; world = w}" in made and r"\begin{tabular}{lrrr}" in made
    assert (
        r"my\_own & 2 & 0.95 $\pm$ 0.01 & --\textsuperscript{1} \\" in made and r"none & 3 & 0.95 $\pm$ 0.01 & 1.0 \\" in made
    )
    assert r"$\pm$ Student's 95 \% interval over seeds; too narrow where" in made
    assert r"\footnotesize 1) weak \& faint" in made and made.index(r"\toprule") < made.index(r"\midrule")
    lines = made[made.index(r"\toprule") : made.index(r"\bottomrule")].splitlines()
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines if line.endswith(r"\\")} == {3}


@given(st.text(max_size=30))
def test_no_word_is_a_command_to_latex(words: str) -> None:
    made = escape(words)
    known = r"\\[&%$#_{}]|\\text(backslash|asciitilde|asciicircum|less|greater|bar)\{\}|\$(\\pm|\\times|-)\$"
    assert not set(re.sub(known, "", made)) & set("&%$#_{}\\~^<>|")
