"""Trials of which everything is known -> cells, differences, ranks and standings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from trials import RULES, cell_of, grid, standing_of, trial

from testbed.comparison import compared
from testbed.leaderboard import Trial
from testbed.rules import Rules, rules_of
from testbed.statistics import guaranteed, over_seeds, over_trials
from testbed.suite import Part, Suite


def test_a_cell_keeps_every_seed_and_both_intervals() -> None:
    values = [0.9, 0.1, 0.8]
    board = compared([trial("mine", seed, value) for seed, value in enumerate(values)], RULES)
    spread = cell_of(board, "mine").spreads["attack_success_rate"]
    assert spread == (over_seeds(values), guaranteed(values), dict(enumerate(values)), None)
    counts = [trial("mine", 0, 0.5, measures={"half_life_steps": 0.5, "toy": True, "judge": "oracle"})]
    spreads = cell_of(compared(counts, RULES), "mine").spreads
    assert spreads["half_life_steps"].guaranteed is None  # it is below 1 by chance
    assert "toy" not in spreads and "judge" not in spreads


def test_draws_of_a_seed_are_averaged_and_seeds_of_one_model_are_no_further_models() -> None:
    board = compared([trial("mine", 0, 0.2), trial("mine", 0, 0.4), trial("mine", 1, 0.9)], RULES)
    spread = cell_of(board, "mine").spreads["attack_success_rate"]
    assert spread.seeds == pytest.approx({0: 0.3, 1: 0.9}) and spread.interval.n == 2
    board = compared([trial("mine", seed, 0.2 + seed / 10, model="aligned") for seed in range(3)], RULES)
    assert cell_of(board, "mine").spreads["attack_success_rate"].interval == (pytest.approx(0.3), None, None, 1)


def test_trials_are_pooled_over_seeds_and_paired_one_by_one() -> None:
    def aimed(method: str, hits: list[int]) -> list[Trial]:
        return [
            trial(method, place // 4, float(hit), trial=place % 4, targeted=True, poison=f"poison/{place}")
            for place, hit in enumerate(hits)
        ]

    board = compared([*aimed("none", [1, 1, 1, 0, 1, 1, 1, 1]), *aimed("mine", [0, 0, 0, 0, 0, 1, 0])], RULES)
    none, mine = cell_of(board, "none"), cell_of(board, "mine")
    spread = none.spreads["attack_success_rate"]
    assert spread.interval == over_trials([1] * 7 + [0]) and spread.guaranteed is None
    assert spread.seeds == {0: 0.75, 1: 1.0} and spread.trials is not None and spread.trials[0, 3] == 0
    assert none.spreads["clean_accuracy"] == (over_seeds([0.9, 0.9]), guaranteed([0.9, 0.9]), {0: 0.9, 1: 0.9}, None)
    contrast = mine.contrasts["attack_success_rate"]
    assert contrast.difference == (pytest.approx(-5 / 7), None, None, 7)  # the eighth trial has no pair
    assert contrast.p == pytest.approx(2 / 2**5)  # 5 of 7 pairs differ, all the same way
    assert mine.contrasts["clean_accuracy"].difference == over_seeds([0.0, 0.0])
    assert [one.label for one in mine.trials][-1] == "digits badnets 0.1 mine s1 t2"


def test_a_trial_with_another_poison_is_no_pair_and_the_others_of_its_seed_are() -> None:
    pairs = [trial(method, 0, 0.5, trial=place, targeted=True) for method in ("none", "mine") for place in range(3)]
    pairs[-1] = replace(pairs[-1], poison="poison/other")
    board = compared(pairs, RULES)
    assert cell_of(board, "mine").contrasts["attack_success_rate"].difference.n == 2
    assert board.unpaired == ("digits badnets 0.1 mine: not compared with none, as the poison is another: seed 0 (trial 2)",)
    missing = replace(pairs[0], status="missing", measures={})
    assert cell_of(compared([missing, *pairs[1:]], RULES), "none").rank is None


def test_differences_are_taken_on_the_same_seed_and_poison() -> None:
    trials = [trial("none", seed, 0.9) for seed in range(4)]
    trials += [trial("mine", seed, value) for seed, value in ((0, 0.1), (1, 0.3), (5, 0.0))]
    trials += [trial("mine", 2, 0.0, poison="poison/other")]
    board = compared(trials, RULES)
    contrast = cell_of(board, "mine").contrasts["attack_success_rate"]
    assert contrast.difference == over_seeds([0.1 - 0.9, 0.3 - 0.9]) and contrast.p is None and contrast.corrected is None
    assert board.unpaired == ("digits badnets 0.1 mine: not compared with none, as the poison is another: seed 2",)
    assert cell_of(board, "none").contrasts == {}


def test_below_six_pairs_nothing_has_a_p_and_from_six_on_a_family_is_one_methods() -> None:
    few = compared(grid(5, {"none": 0.0, "mine": 0.5}), RULES)
    assert {pair.p for cell in few.cells for pair in cell.contrasts.values()} == {None}
    one = compared(grid(6, {"none": 0.0, "mine": 0.5}), RULES)
    two = compared(grid(6, {"none": 0.0, "mine": 0.5, "other": 0.1, "third": 0.2}), RULES)
    contrast = cell_of(one, "mine").contrasts["attack_success_rate"]
    assert contrast.p == pytest.approx(2 / 64) and contrast.corrected == pytest.approx(2 * 2 / 64)  # two attacks
    assert cell_of(two, "mine").contrasts == cell_of(one, "mine").contrasts
    assert cell_of(one, "mine").contrasts["clean_accuracy"].corrected == 1.0  # no difference on any seed
    assert cell_of(one, "mine").contrasts["defence_effectiveness"].corrected is None  # in no family


def test_a_test_that_was_not_made_yet_keeps_its_place_in_the_family() -> None:
    trials = grid(6, {"none": 0.0, "mine": 0.5}, ("badnets",))
    missing = [replace(one, attack="blended", status="missing", measures={}) for one in trials]
    contrast = cell_of(compared([*trials, *missing], RULES), "mine").contrasts["attack_success_rate"]
    assert contrast.corrected == pytest.approx(2 * 2 / 64)


def test_pairs_met_the_same_victim_and_the_same_data() -> None:
    trials = [trial("none", seed, 0.9, victims={"undefended": f"v{seed}"}, data="rows") for seed in range(3)]
    trials += [trial("mine", 0, 0.1, victims={"undefended": "v0"}, data="rows")]
    trials += [trial("mine", 1, 0.1, victims={"undefended": "of other code"}, data="rows")]
    trials += [trial("mine", 2, 0.1, victims={"undefended": "v2"}, data="other rows")]
    board = compared(trials, RULES)
    assert cell_of(board, "mine").contrasts["attack_success_rate"].difference == over_seeds([0.1 - 0.9])
    assert board.unpaired == (
        "digits badnets 0.1 mine: not compared with none, as the undefended victim is another: seed 1",
        "digits badnets 0.1 mine: not compared with none, as the data set is another: seed 2",
    )


def test_below_so_many_pairs_as_its_family_needs_a_difference_cannot_be_decided() -> None:
    attacks = tuple("abcdefgh")
    few, enough = (compared(grid(seeds, {"none": 0.0, "mine": 0.5}, attacks), RULES) for seeds in (8, 9))
    pairs = [cell_of(board, "mine", "a").contrasts["attack_success_rate"] for board in (few, enough)]
    assert [(pair.fewest, pair.decidable) for pair in pairs] == [(9, False), (9, True)]
    assert [pair.corrected for pair in pairs] == [pytest.approx(8 * 2 / 2**8), pytest.approx(8 * 2 / 2**9)]
    assert cell_of(enough, "mine", "a").contrasts["defence_effectiveness"].fewest is None  # in no family


def test_ranks_share_ties_and_whoever_lacks_a_run_has_none() -> None:
    trials = grid(2, {"none": 0.0, "good": 0.5, "same": 0.5, "partly": 0.8})
    trials[-1] = replace(trials[-1], status="failed", reason="ValueError:\nno", measures={})
    board = compared(trials, RULES)
    assert [cell_of(board, name).rank for name in ("none", "good", "same", "partly")] == [3.0, 1.5, 1.5, None]
    good, partly = standing_of(board, "good"), standing_of(board, "partly")
    assert (good.mean_rank, good.worst_rank, good.cells, good.wanted, good.n) == (1.5, 1.5, 2, 2, 4)
    assert (partly.mean_rank, partly.cells, partly.wanted, partly.failed, partly.n) == (None, 1, 2, 1, 3)
    assert [standing.method for standing in board.standings] == ["good", "same", "none", "partly"]
    assert board.missing == ["failed: digits blended 0.1 partly s1 (ValueError: no)"] and (board.done, board.wanted) == (15, 16)


def test_the_worst_case_stands_beside_the_mean() -> None:
    trials = [trial("none", attack=attack, success=0.9) for attack in ("badnets", "blended")]
    trials += [trial("mine", success=0.1), trial("mine", attack="blended", success=0.8, measures={"clean_accuracy": 0.7})]
    trials += [trial("other", success=0.2), trial("other", attack="blended", success=0.2)]
    board = compared(trials, RULES)
    mine = standing_of(board, "mine")
    assert mine.means["attack_success_rate"] == pytest.approx(0.45) and mine.worst["attack_success_rate"] == 0.8
    assert mine.means["clean_accuracy"] == pytest.approx(0.8) and mine.worst["clean_accuracy"] == 0.7
    assert (mine.mean_rank, mine.worst_rank) == (1.5, 2.0)


def test_a_weak_attack_is_shown_and_not_counted() -> None:
    weak = {"undefended_attack_success_rate": 0.15, "clean_twin_attack_success_rate": 0.06}
    trials = grid(2, {"none": 0.0, "mine": 0.5}, ("badnets",))
    trials += [trial(name, seed, 0.0, attack="faint", measures=weak) for name in ("none", "mine") for seed in (0, 1)]
    board = compared(trials, RULES)
    assert cell_of(board, "mine", "faint").weak and not cell_of(board, "mine").weak
    assert cell_of(board, "mine", "faint").rank is None and standing_of(board, "mine").wanted == 1
    assert standing_of(board, "mine").means["attack_success_rate"] == pytest.approx(0.395)
    strong = [replace(one, measures={**one.measures, "clean_twin_attack_success_rate": 0.04}) for one in trials]
    assert not cell_of(compared(strong, RULES), "mine", "faint").weak


def test_the_clean_arm_is_compared_and_not_ranked() -> None:
    clean = [trial(name, seed, attack="none", rate=None) for name in ("none", "mine") for seed in (0, 1)]
    clean[2] = replace(clean[2], measures={**clean[2].measures, "clean_accuracy": 0.8})
    board = compared([*clean, *grid(2, {"none": 0.0, "mine": 0.5})], RULES)
    cell = cell_of(board, "mine", "none")
    assert not cell.counted and cell.rank is None and cell.contrasts["clean_accuracy"].difference.mean == pytest.approx(-0.05)
    assert standing_of(board, "mine").means["clean_accuracy"] == 0.9 and standing_of(board, "mine").wanted == 2


def test_a_row_without_what_methods_are_ranked_by_stands_in_nobodys_way() -> None:
    other = [trial(name, seed, attack="availability") for name in ("none", "mine") for seed in (0, 1)]
    other = [replace(one, measures={"clean_accuracy": 0.5}) for one in other]
    board = compared([*grid(2, {"none": 0.0, "mine": 0.5}), *other], RULES)
    assert standing_of(board, "mine").mean_rank == 1.0 and standing_of(board, "mine").wanted == 2


def test_worlds_are_ranked_apart_and_together() -> None:
    trials = grid(2, {"none": 0.0, "mine": 0.5})
    there = [replace(one, world="icons") for one in grid(2, {"none": 0.0, "mine": 0.0, "only_icons": 0.2})]
    board = compared([*trials, *there], RULES)
    assert [standing_of(board, "only_icons", world).mean_rank for world in (None, "icons")] == [None, 1.0]
    assert (standing_of(board, "mine", "digits").mean_rank, standing_of(board, "mine").mean_rank) == (
        1.0,
        (1 + 1 + 2.5 + 2.5) / 4,
    )


def test_the_rules_of_a_suite_say_what_is_counted() -> None:
    part = Part()
    names: dict[str, Any] = {
        "worlds": {"digits": part},
        "attacks": {"badnets": part, "blended": part},
        "methods": {"none": part},
    }
    suite = Suite(name="s", verb="train", clean_budget="none", seeds=(0,), counted=("blended",), **names)
    board = compared(grid(1, {"none": 0.0, "mine": 0.5}), rules_of(suite, ["seeds 0 instead of 0, 1"]))
    assert (board.title, board.hash, board.departures) == ("s", suite.hash, ("seeds 0 instead of 0, 1",))
    assert not cell_of(board, "mine").counted and standing_of(board, "mine").wanted == 1


def test_only_attacks_that_were_run_against_a_method_make_it_adaptively_tested() -> None:
    budget = {"attack_budget_rounds": 3, "attack_budget_surrogates": 1}
    trials = grid(2, {"none": 0.0, "mine": 0.5}, ("badnets",))
    trials += [trial("none", seed, 0.9, attack="hunter", poison=f"poison/h{seed}") for seed in (0, 1)]
    against = [trial("mine", seed, 0.7, attack="hunter", poison=f"poison/m{seed}", measures=budget) for seed in (0, 1)]
    board = compared([*trials, *(replace(one, adaptive=True) for one in against)], RULES)
    told = "hunter 0.1 in digits: success 0.900 undefended -> 0.700 defended (n = 2); rounds 3, surrogates 1"
    assert standing_of(board, "mine").adaptive == (told,) and standing_of(board, "none").adaptive == ()
    assert not cell_of(board, "mine", "hunter").counted  # each method met another poison
    shared = [replace(one, adaptive=True, poison=f"poison/h{one.seed}") for one in against]
    assert cell_of(compared([*trials, *shared], RULES), "mine", "hunter").counted


def judged(attack: str, seed: int, index: float, twin: float, **changes: Any) -> Trial:
    """A run of a detector of backdoored models: it flags what has an anomaly index above 2."""
    measures = {
        "anomaly_index": index,
        "clean_twin_anomaly_index": twin,
        "flagged_classes": [3] if index > 2 else [],
        "clean_twin_flagged_classes": [1] if twin > 2 else [],
        "attack_success_rate": 0.9,
        "clean_twin_attack_success_rate": 0.0,
        **changes,
    }
    clean = f"twin {seed}"
    victims = {"undefended": clean if attack == "none" else f"{attack} {seed}", "clean_twin": clean}
    rate = None if attack == "none" else 0.1
    return Trial("digits", attack, rate, "nc", seed, "done", measures=measures, victims=victims)


def test_a_population_counts_each_model_once_and_no_victim_of_a_weak_attack() -> None:
    trials = [judged("none", seed, twin, twin) for seed, twin in enumerate((1.0, 3.0))]
    trials += [judged("badnets", seed, index, twin) for seed, (index, twin) in enumerate(((4.0, 1.0), (2.5, 3.0), (1.0, 0.5)))]
    trials += [judged("faint", seed, 9.0, 1.0, attack_success_rate=0.05) for seed in (0,)]
    (found,) = compared(trials, Rules("made up", "detect")).populations
    assert (found.clean, found.backdoored) == (3, 3)
    assert found.auroc is not None and found.auroc.n == 6
    assert found.auroc.mean == pytest.approx((3 + 2 + 1.5) / 9)  # clean: 1, 3, 0.5; backdoored: 4, 2.5, 1
    assert found.flagged_clean is not None and found.flagged_backdoored is not None
    assert found.flagged_clean[::3] == (1 / 3, 3) and found.flagged_backdoored[::3] == (2 / 3, 3)
    without = compared(trials[:2], Rules("made up", "detect")).populations[0]
    assert without.auroc is None and without.flagged_backdoored is None
    whole = judged("badnets", 0, 0.5, 0.4, flagged=1.0, clean_twin_flagged=0.0, flagged_classes=[])
    scored = compared([whole], Rules("made up", "detect")).populations[0]
    assert scored.flagged_backdoored is not None and scored.flagged_backdoored.mean == 1.0


def test_a_detector_with_one_score_and_no_rule_flags_nobody_and_has_no_rate() -> None:
    trials = [replace(judged("badnets", seed, 4.0, 1.0), counts={"anomaly_index": 1}) for seed in (0, 1)]
    trials = [
        replace(one, measures={**one.measures, "flagged_classes": [], "clean_twin_flagged_classes": []}) for one in trials
    ]
    (found,) = compared(trials, Rules("made up", "detect")).populations
    assert found.auroc is not None and found.auroc.mean == 1.0 and found.backdoored == 2
    assert found.flagged_backdoored is None and found.flagged_clean is None
    by_class = [replace(one, counts={"anomaly_index": 10}) for one in trials]
    (found,) = compared(by_class, Rules("made up", "detect")).populations
    assert found.flagged_backdoored is not None and found.flagged_backdoored.mean == 0.0
