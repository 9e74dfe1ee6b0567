"""What may be said of standings: how sure a difference is, why nobody has a rank, and on what a mean rests."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from testbed.comparison import compared
from testbed.leaderboard import Cell, Contrast, Leaderboard, Trial
from testbed.page.answer import answer, sentences
from testbed.page.cells import as_csv, table
from testbed.page.head import head, signs
from testbed.page.measure import columns, measure_of
from testbed.page.overview import overview
from testbed.page.points import EVERY, mean_over_cells, trade_off
from testbed.page.refusals import _shot_chart
from testbed.page.scores import _anomalies, _histogram_chart
from testbed.page.standings import standings, verdict
from testbed.rules import Rules
from testbed.statistics import over_seeds

from .test_page import board, cell

SUCCESS = measure_of("attack_success_rate")


def pair(n: int, corrected: float | None, fewest: int | None, by: float = -0.5) -> Contrast:
    """A difference of n pairs, all of them near `by`."""
    differences = over_seeds([by + 0.01 * place for place in range(n)])
    return Contrast(differences, None if n < 6 else 2 / 2**n, corrected, fewest)


def told(*pairs: Contrast) -> str:
    return verdict([cell("mine", contrasts={"attack_success_rate": found}) for found in pairs], SUCCESS)


def test_a_family_too_large_for_its_seeds_is_not_called_undecided() -> None:
    assert told(pair(6, 0.25, 9), pair(6, 0.25, 9)) == "cannot be decided below 9 seeds (n = 6 pairs)"
    assert told(pair(3, None, 9)) == "untested (n = 3 of 9 pairs)"
    assert told(pair(3, None, None)) == "untested (n = 3 of 6 pairs)"
    assert told(pair(6, None, None)) == "in no family of tests (n = 1 cells)"
    some = told(pair(9, 0.03, 9), pair(9, 0.06, 9), pair(6, 0.25, 9))
    assert some == "1 better, 0 worse, 1 undecided, 1 cannot be decided below 9 seeds (n = 3 cells)"
    assert "too many tests" in told(pair(20, 0.2, None))


def test_a_cell_says_the_same_of_its_difference() -> None:
    made = cell("mine", contrasts={"attack_success_rate": pair(6, 0.25, 9)})
    text = table(board(made, cell("other", contrasts={"attack_success_rate": pair(3, None, 9)})), [SUCCESS], {}, 0)
    assert "p = 0.25 after Holm: cannot be decided below 9 seeds" in text
    assert "not tested below 6 pairs, not decided below 9" in text


def test_the_signs_say_what_sign_flips_test() -> None:
    assert "symmetric about 0, and not their mean" in signs() and "cannot be decided" in signs()


def trial(method: str, seed: int, attack: str = "badnets", success: float = 0.9, **more: Any) -> Trial:
    """A run of `train` that took all but a tenth of success unless its method is 'none'; `twin` is that on the clean twin."""
    after = success if method == "none" else success / 10
    measures = {"attack_success_rate": after + 0.001 * seed, "undefended_attack_success_rate": success, "clean_accuracy": 0.9}
    twin = more.pop("twin", 0.02)
    measures |= {"defence_effectiveness": (success - after + 1) / 2} | (
        {} if twin is None else {"clean_twin_attack_success_rate": twin}
    )
    kept = {} if more.get("status", "done") != "done" else {"measures": measures, "poison": f"{attack}{seed}"}
    return Trial("digits", attack, None, method, seed, **{"status": "done", **kept, **more})


def made_of(*trials: Trial) -> Leaderboard:
    return compared(trials, Rules("made up", "train", "none"))


def runs(attack: str, methods: Sequence[str] = ("none", "mine"), **more: Any) -> list[Trial]:
    return [trial(method, seed, attack, **more) for method in methods for seed in range(3)]


def said(found: Leaderboard) -> str:
    return answer(found, columns(found))


def test_who_has_no_rank_is_told_why() -> None:
    assert "badnets, sig: weak: the attack is not 10 points above" in said(
        made_of(*runs("badnets", success=0.1), *runs("sig", success=0.05))
    )
    assert "success on the clean twin is not known" in said(made_of(*runs("badnets", twin=None)))
    gaps = [
        *(trial("none", seed, status="failed") for seed in range(3)),
        *(trial("mine", seed, status="failed") for seed in range(2)),
    ]
    assert "nobody has a rank yet: no method has every cell that counts (none has 0 of 1)" in said(
        made_of(*gaps, trial("mine", 2))
    )
    clean = made_of(*runs("none", twin=None, success=0.0))
    assert "nobody can be ranked: no attack here is one that counts" in said(clean)


def test_detectors_of_whole_models_are_never_ranked() -> None:
    index = {"anomaly_index": 3.0, "clean_twin_anomaly_index": 1.0, "attack_success_rate": 0.9}
    measures = {**index, "clean_twin_attack_success_rate": 0.02}
    trials = [Trial("digits", "badnets", None, "neural_cleanse", seed, "done", measures=measures) for seed in range(3)]
    found = compared(trials, Rules("made up", "detect"))
    assert "detectors of whole models are not ranked" in said(found) and "has a rank yet" not in said(found)


def test_a_row_that_nobody_could_run_is_named_and_takes_no_rank_away() -> None:
    found = made_of(*runs("badnets"), *runs("label_flip", status="failed", reason="ValueError: no"))
    assert "mine is first of 2 methods" in said(found)
    assert "digits label_flip: no run is done: 6 failed" in head(found) and "1 attacks by which nobody is ranked" in head(found)
    measures = columns(found)
    assert EVERY not in {row["place"] for row in trade_off(found, measure_of("clean_accuracy"), SUCCESS)[0]}
    text = standings(found, measures)
    assert text.count("only ") == 0 and "n = 3" in text


def test_a_method_that_failed_on_the_first_attack_alone_costs_nobody_the_page() -> None:
    lost = [trial("mine", seed, "badnets", status="failed", reason="ValueError: no") for seed in range(3)]
    found = made_of(*runs("badnets", ["none"]), *lost, *runs("blended"))
    text = standings(found, columns(found))
    mine = next(row for row in text.split("<tr") if 'data-method="mine"' in row)
    assert "only 1 of 2 cells" in mine and "±" not in mine.split("cost")[0] and "<b>9.1" not in mine
    none = next(row for row in text.split("<tr") if 'data-method="none"' in row)
    assert "only" not in none and "n = 3" in none
    assert "attack success 9.1 % (worst 9.1, only 1 of 2 cells)" in sentences(found, columns(found))["mine"]
    means = trade_off(found, measure_of("clean_accuracy"), SUCCESS)[0]
    assert [row["method"] for row in means if row["place"] == EVERY] == ["none"]


def test_a_method_that_lost_a_seed_is_in_no_mean_over_attacks() -> None:
    found = made_of(
        *runs("badnets"),
        *runs("blended", ["none"]),
        *runs("blended", ["mine"])[:2],
        trial("mine", 2, "blended", status="failed"),
    )
    means = trade_off(found, measure_of("clean_accuracy"), SUCCESS)[0]
    assert [row["method"] for row in means if row["place"] == EVERY] == ["none"]


def test_a_mean_over_cells_needs_every_cell_and_counts_models() -> None:
    whole, lost = cell("mine"), Cell("digits", "sig", None, "mine", ())
    assert mean_over_cells([lost, whole], SUCCESS) is None and mean_over_cells([], SUCCESS) is None
    assert mean_over_cells([whole, whole], SUCCESS) == over_seeds([0.49, 0.5, 0.51])
    aligned = replace(whole, trials=tuple(replace(one, model="one and the same") for one in whole.trials))
    assert mean_over_cells([whole, aligned], SUCCESS) == over_seeds([0.5])  # three seeds, one model


def test_an_unknown_row_is_marked_and_has_no_colour() -> None:
    found = made_of(*runs("badnets", twin=None))
    assert ">unknown</span>" in table(found, columns(found), {}, 0)
    rows = overview(found, columns(found), 0)[0].sets["cells0"]
    assert {row["good"] for row in rows} == {None} and all(row["below"].startswith("unknown") for row in rows)


HALF = measure_of("half_life_steps")


def watched(*times: tuple[float | None, float | None], models: Sequence[str] = ()) -> Leaderboard:
    """A cell whose runs have these half-lives, or bounds of them."""
    trials = []
    for seed, (value, bound) in enumerate(times):
        measures = {"half_life_steps": value, "half_life_censored_at": bound, "refusal_rate_end": 0.5}
        model = models[seed] if models else ""
        trials.append(Trial("toy", "few_shot", None, "none", seed, "done", measures=measures, model=model))
    return compared(trials, Rules("made up", "degrade", "none"))


@pytest.mark.parametrize(
    ("times", "models", "shown", "n"),
    [
        ([(None, 64.0), (9.0, None), (8.0, None)], (), "9.000", "n = 3, median"),
        ([(None, 64.0), (9.0, None), (8.0, None)], "aab", "8.000", "n = 2, median"),  # 9 of the first model, 8 of the other
        ([(None, 64.0), (None, 32.0), (9.0, None)], "aaa", "&gt; 64.00", "n = 1, median"),
        ([(None, None), (9.0, None), (None, 64.0)], (), "– 9.000 &gt; 64.00", "n = 2 of 3"),
        ([(None, None), (9.0, None)], (), "– 9.000", "n = 1 of 2"),
    ],
)
def test_a_median_is_over_models_and_says_who_does_not_tell(times, models, shown: str, n: str) -> None:
    found = watched(*times, models=models)
    assert f"<b>{shown}</b><small>{n}</small>" in table(found, [HALF], {}, 0)
    (row,) = csv.DictReader(io.StringIO(as_csv(found, [HALF])))
    assert row["half_life_steps"] == ""  # a mean of those that were watched for long enough would be too short
    (tile,) = overview(found, [HALF], 0)[0].sets["cells0"]
    assert "mean" not in tile and tile["below"] == n


def test_models_are_counted_by_world_and_weak_attacks_are_neither_kind() -> None:
    def inspected(world: str, attack: str, seeds: int, **more: Any) -> Cell:
        trials = tuple(
            Trial(world, attack, None, "nc", seed, "done", measures={"anomaly_index": 3.0, "clean_twin_anomaly_index": seed})
            for seed in range(seeds)
        )
        return Cell(world, attack, None, "nc", trials, **more)

    made = (inspected("digits", "badnets", 3), inspected("icons", "badnets", 2), inspected("icons", "sig", 2, weak=True))
    rows = _anomalies(Leaderboard("made up", "detect", "", (), "", made, ()))
    labels = {row["world"]: row["label"] for row in rows}
    assert labels == {"digits": "nc|n = 3 backdoored,|3 clean", "icons": "nc|n = 2 backdoored,|2 clean,|2 weak attack"}
    assert {row["model"] for row in rows if row["against"] == "sig"} == {"weak attack"}


def test_rows_and_queries_of_one_detector_are_not_drawn_over_each_other() -> None:
    row = {"world": "digits", "against": "badnets", "method": "onion", "seed": "0", "kind": "clean", "n": 9}
    bins = [{**row, "judged": judged, "start": [0.0], "end": [1.0], "share": [1.0]} for judged in ("rows", "queries")]
    chart = _histogram_chart(board(cell("onion")), bins, "bins0")
    assert next(switch for switch in chart.switches if switch.parameter == "judged").options == {
        "rows": "rows",
        "queries": "queries",
    }
    assert "datum.judged == judged" in str(chart.specification)


def test_runs_of_other_worlds_are_not_counted_into_a_mean() -> None:
    rows = [
        {"world": world, "attack": "few_shot", "method": "none", "seed": "0", "shots": shots, "refusal": 0.5, "n": 50}
        for world in ("a", "b", "c")
        for shots in (10, 100)
    ]
    assert "means of up to 1 runs" in _shot_chart(board(cell("none")), rows, "shots0").caption
