"""What a suite asks for, in which order, and how closely a choice keeps to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.plan import Choice, Plan, planned, store, stored
from testbed.suite import Suite, read_suite
from testbed.words import Refused

SUITE = Suite(
    name="small",
    verb="train",
    clean_budget="none",
    seeds=2,
    worlds={"digits": ["data=digits"], "icons": ["data=icons"]},
    attacks={"badnets": ["attack=badnets"], "text": {"settings": ["attack=text"], "worlds": ["icons"]}},
    methods={"none": ["defence=none"], "repair": ["defence=repair"]},
    rates={"attack.poison_rate": [0.01, 0.05]},
    families=[["attack_success_rate"]],
)
NAMES = st.lists(st.sampled_from(["badnets", "text"]), unique=True, min_size=1).map(tuple)
CHOICES = st.builds(
    Choice,
    worlds=st.none() | st.lists(st.sampled_from(["digits", "icons"]), unique=True, min_size=1).map(tuple),
    attacks=st.none() | NAMES,
    rates=st.none() | st.lists(st.sampled_from([0.01, 0.02]), unique=True, min_size=1).map(tuple),
    names=st.none() | st.just(("repair",)),
    seeds=st.none() | st.lists(st.integers(0, 5), unique=True, min_size=1, max_size=3).map(tuple),
)


def cells(plan: Plan) -> list[tuple[str, str, float | None, str, int]]:
    return [(one.world, one.attack, one.rate, one.method, one.seed) for one in plan.requests]


def test_the_whole_suite_is_its_own_grid_with_a_clean_arm_that_has_no_rate() -> None:
    plan = planned(SUITE, Choice())
    # For each of 2 seeds: digits has badnets at 2 rates and the clean arm, icons has text at 2 rates as well; 2 methods each.
    assert len(plan.requests) == 2 * ((2 + 1) + (4 + 1)) * 2
    assert ("digits", "none", None, "repair", 1) in cells(plan)
    assert not any(attack == "text" and world == "digits" for world, attack, *_ in cells(plan))
    assert plan.departures == ()
    first = plan.requests[0]
    assert first.overrides == ("data=digits", "attack=none", "defence=none", "seed=0")
    assert plan.requests[2].overrides[-1] == "attack.poison_rate=0.01"


@given(CHOICES)
def test_every_plan_has_the_clean_arm_and_the_baseline_and_nothing_twice(choice: Choice) -> None:
    plan = planned(SUITE, choice)
    assert len({request.key for request in plan.requests}) == len(plan.requests)
    asked = set(cells(plan))
    assert asked == {
        (world, attack, rate, method, seed) for world, attack, rate, _, seed in asked for method in ("none", "repair")
    }
    assert all((world, "none", None, "none", seed) in asked for world, _, _, _, seed in asked)
    assert (plan.departures == ()) == (asked == set(cells(planned(SUITE, Choice()))))


@given(CHOICES, st.integers(1, 5))
def test_nothing_comes_before_what_makes_its_victim(choice: Choice, parts: int) -> None:
    plan = planned(SUITE, choice)
    after = plan.after()
    order = {request.key: place for place, request in enumerate(plan.requests)}
    assert all(order[needed] < order[key] for key, all_needed in after.items() for needed in all_needed)
    shards = [plan.shard(part, parts) for part in range(1, parts + 1)]
    assert sorted(request.key for shard in shards for request in shard.requests) == sorted(order)
    homes = [{request.victim for request in shard.requests} for shard in shards]
    assert all(not one & other for place, one in enumerate(homes) for other in homes[place + 1 :])


def test_a_suite_of_targets_has_trials_on_each_seed_and_one_clean_arm_for_all_of_them() -> None:
    aimed = Suite(**{**SUITE.model_dump(), "rates": {}, "targets": 3})
    plan = planned(aimed, Choice(worlds=("digits",)))
    assert [(one.attack, one.seed, one.trial) for one in plan.requests if one.method == "none"] == [
        *[("none", 0, 0), ("badnets", 0, 0), ("badnets", 0, 1), ("badnets", 0, 2)],
        *[("none", 1, 0), ("badnets", 1, 0), ("badnets", 1, 1), ("badnets", 1, 2)],
    ]
    assert plan.requests[0].overrides[-1] == "seed=0" and plan.requests[4].overrides[-1] == "trial=1"
    assert plan.requests[4].label == "digits badnets none s0 t1" and plan.requests[0].label == "digits none none s0"
    twin = plan.requests[0].key
    assert all(plan.after()[one.key][-1] == twin for one in plan.requests if one.seed == 0 and one.key != twin)
    assert len({one.victim for one in plan.requests if one.attack == "badnets"}) == 6
    more = planned(aimed, Choice(targets=4))
    assert "trial 3 added" in more.departures and [one.declared for one in more.requests if one.trial == 3] == [False] * 12
    assert "without trial 1, 2" in planned(aimed, Choice(targets=1)).departures
    with pytest.raises(Refused, match="targets=2: the attacks of this suite have no trials"):
        planned(SUITE, Choice(targets=2))


def test_plans_of_trials_are_read_back_and_suites_without_keep_their_hash(tmp_path: Path) -> None:
    aimed = Suite(**{**SUITE.model_dump(), "targets": 3})
    assert aimed.hash != SUITE.hash == Suite(**{**SUITE.model_dump(), "targets": 1}).hash
    store(planned(aimed, Choice(seeds=(0,))), ("testbed",), tmp_path)
    (found,) = stored(tmp_path)
    assert found.suite == aimed and {request.trial for request in found.requests} == {0, 1, 2}
    assert Suite(**{**aimed.model_dump(), "verb": "detect"}).targets == 3
    with pytest.raises(ValueError, match="only train and detect have trials"):
        Suite(**{**aimed.model_dump(), "verb": "degrade"})


def test_departures_are_told_in_words() -> None:
    choice = Choice(seeds=(0,), names=("none", "mine"), methods={"mine": ("defence=mine",)}, settings=("trainer.lr=1",))
    plan = planned(SUITE, choice)
    assert plan.departures == (
        *("trainer.lr=1 in some runs", "without method repair", "method mine added", "without seed 1"),
        "32 of its 32 runs not asked for",
    )
    assert not any(request.declared for request in plan.requests)
    assert all(request.declared for request in planned(SUITE, Choice(settings=("paths.data=elsewhere",))).requests)


def test_a_key_is_about_what_is_run_and_not_about_where_it_goes() -> None:
    here = planned(SUITE, Choice(settings=("paths.outputs=here", "logger=none"))).requests
    there = planned(SUITE, Choice()).requests
    other = planned(SUITE, Choice(settings=("trainer.lr=1",))).requests
    assert [one.key for one in here] == [one.key for one in there]
    assert not {one.key for one in here} & {one.key for one in other}
    elsewhere = planned(SUITE, Choice(settings=("data.root=elsewhere", "paths.data=elsewhere")))
    assert elsewhere.departures == ()
    assert not {one.key for one in here} & {one.key for one in elsewhere.requests}  # for other rows may lie there
    assert [one.place for one in here] == [one.place for one in elsewhere.requests]


def test_of_two_words_for_one_key_the_last_counts() -> None:
    there, back = (
        planned(SUITE, Choice(settings=settings)).requests
        for settings in (("trainer.lr=1", "trainer.lr=2"), ("trainer.lr=2", "trainer.lr=1"))
    )
    assert not {one.key for one in there} & {one.key for one in back}
    assert "trainer.lr=1" in back[0].overrides
    assert "trainer.lr=2" not in back[0].overrides


def test_plans_of_one_suite_are_read_back_together(tmp_path: Path) -> None:
    store(planned(SUITE, Choice(seeds=(0,))), ("testbed",), tmp_path)
    store(planned(SUITE, Choice(names=("none", "mine"), methods={"mine": ("defence=mine",)})), ("testbed",), tmp_path)
    store(planned(SUITE, Choice(seeds=(0,))), ("testbed",), tmp_path)
    (both,) = stored(tmp_path)
    assert both.suite == SUITE
    assert {request.method for request in both.requests} == {"none", "repair", "mine"}
    assert both.departures == ("method mine added", "8 of its 32 runs not asked for")
    assert [request.declared for request in both.requests if request.method == "mine"] == [False] * 16
    assert len({request.key for request in both.requests}) == len(both.requests)


def test_the_hash_is_about_what_a_suite_says_and_not_about_comments_or_costs(tmp_path: Path) -> None:
    told = "verb: train\nclean_budget: x\nseeds: 1\nworlds: {a: []}\nattacks: {b: []}\nmethods: {none: []}\n"
    texts = [told, f"# said\n{told}seconds: 3\n", told.replace("seeds: 1", "seeds: 2")]
    hashes = []
    for text in texts:
        (tmp_path / "one.yaml").write_text(text)
        hashes.append(read_suite(tmp_path / "one.yaml").hash)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("seeds: -1", "seeds"),
        ("nonsense: 1", "nonsense"),
        ("baseline: best", "best is none of its methods"),
        ("counted: [c]", "c is counted, but none of its attacks"),
        ("dev: {b: []}", "b is an attack to tune on and one to be measured by"),
        ("rates: {x: [1], y: [2]}", "rates"),
        ("{", "no suite can be read there"),
    ],
)
def test_a_bad_suite_is_refused_in_one_line(wrong: str, said: str, tmp_path: Path) -> None:
    told = "verb: train\nclean_budget: x\nseeds: 1\nworlds: {a: []}\nattacks: {b: []}\nmethods: {none: []}\n"
    kept = "".join(line for line in told.splitlines(keepends=True) if line.partition(":")[0] != wrong.partition(":")[0])
    (tmp_path / "one.yaml").write_text(f"{kept}{wrong}\n")
    with pytest.raises(Refused) as caught:
        read_suite(tmp_path / "one.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(Refused, match=r"attack=badnet: the suite has no such name; did you mean badnets\?"):
        planned(SUITE, Choice(attacks=("badnet",)))
