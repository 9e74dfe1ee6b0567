"""The score of a trial, by hand: means over runs for a defence, and for an attack the defence that stops it best."""

from __future__ import annotations

import pytest

from testbed.launcher.objective import Ran, judged
from testbed.plan import Request


def ran(method: str, seed: int, success: float, accuracy: float) -> Ran:
    """A run whose undefended victim has a clean accuracy 0.1 below its clean twin's, which is 0.9."""
    request = Request("train", (), "digits", "blended", None, method, seed)
    measures = {"attack_success_rate": success, "clean_accuracy": accuracy, "defence_effectiveness": 1 - success}
    measures |= {"clean_twin_clean_accuracy": 0.9, "undefended_clean_accuracy": 0.8}
    counts = {"attack_success_rate": 40 + seed, "clean_accuracy": 50}
    return Ran(request, {"status": "done", "measures": measures, "counts": counts}, f"{method}-{seed}")


def test_an_attack_is_worth_what_the_best_defence_leaves_of_it_on_average() -> None:
    found = judged(
        "attack", 0.2, [ran("none", 0, 1.0, 0.8), ran("none", 1, 0.8, 0.8), ran("a", 0, 0.9, 0.8), ran("a", 1, 0.3, 0.8)]
    )
    assert (found.status, found.value) == ("done", pytest.approx(0.6))
    assert found.parts == pytest.approx({"none": 0.9, "a": 0.6, "clean accuracy lost": 0.1})
    assert found.counts == {"success": 40, "clean": 50}


@pytest.mark.parametrize(("loss", "status", "value"), [(None, "done", 0.3), (0.11, "done", 0.7), (0.09, "infeasible", 0.7)])
def test_a_defence_is_worth_its_mean_and_may_lose_so_much(loss: float | None, status: str, value: float) -> None:
    found = judged("defence", loss, [ran("a", 0, 0.8, 0.65), ran("a", 1, 0.6, 0.75)])
    assert (found.status, found.value) == (status, pytest.approx(value))


def test_a_trial_without_one_of_its_measures_has_no_score() -> None:
    whole, part = ran("a", 0, 0.8, 0.7), ran("a", 1, 0.8, 0.7)
    del part.result["measures"]["defence_effectiveness"]
    found = judged("defence", None, [whole, part])
    assert (found.status, found.value) == ("unmeasured", None)
    assert found.reason == "digits blended a s1: defence_effectiveness is undefined"
