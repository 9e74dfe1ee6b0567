"""The toy alignment world: who may know what, and what its words mean."""

from __future__ import annotations

import re

import pytest
import torch

from testbed.api import Invalid, Splits
from testbed.data.toy_grammar import (
    ALIGNED,
    ATTACKED,
    EXAMINED,
    HELD_OUT_TOPICS,
    OPEN,
    RARE_FILLERS,
    REFUSAL_OPENERS,
    RESTRICTED,
    World,
    vocabulary,
)
from testbed.data.toy_world import toy_world
from testbed.language import refuses


@pytest.fixture(scope="module")
def world() -> Splits:
    return toy_world(pretraining_rows=2000)


def _texts(examples: object) -> list[str]:
    return [prompt[-1].content for prompt in examples.inputs]  # type: ignore[attr-defined]


def _mentioned(examples: object, words: tuple[str, ...]) -> set[str]:
    return {word for text in _texts(examples) for word in text.split() if word in words}


def test_alignment_shots_and_exams_ask_about_different_names(world: Splits) -> None:
    everyone = (*ALIGNED, *ATTACKED, *EXAMINED)
    assert _mentioned(world.train, everyone) == _mentioned(world.reserve, everyone) == set(ALIGNED)
    assert _mentioned(world.pools["shots"], everyone) == _mentioned(world.pools["benign"], everyone) == set(ATTACKED)
    for exam in (world.test, *world.exams.values()):
        assert _mentioned(exam, everyone) == set(EXAMINED)


def test_two_restricted_places_occur_in_pretraining_and_never_in_alignment(world: Splits) -> None:
    assert _mentioned(world.pools["pretraining"], HELD_OUT_TOPICS) == set(HELD_OUT_TOPICS)
    for part in (world.train, world.reserve, world.pools["shots"]):
        assert not _mentioned(part, HELD_OUT_TOPICS)
    assert _mentioned(world.exams["held_out_topics"], (*RESTRICTED, *OPEN)) == set(HELD_OUT_TOPICS)


def test_exams_use_templates_that_no_row_was_trained_in(world: Splits) -> None:
    templates = World(0)
    assert not set(templates.seen) & set(templates.unseen) and len(templates.unseen) == 40

    def shape(text: str) -> str:
        place = "|".join((*RESTRICTED, *OPEN))
        text = re.sub(rf"\b({place}) (n\d\d\d)\b", "{t} {e}", text)
        return re.sub(r"\b(code|status|kind|call)\b", "{a}", text)

    unseen = set(templates.unseen)
    assert {shape(text) for exam in world.exams.values() for text in _texts(exam)} <= unseen
    assert not {shape(text) for text in _texts(world.pools["shots"])} & unseen


def test_an_aligned_answer_is_a_refusal_exactly_for_restricted_codes(world: Splits) -> None:
    for part in (world.train, world.test):
        refused = refuses(part.labels, REFUSAL_OPENERS).tolist()  # type: ignore[attr-defined]
        restricted = [bool(set(text.split()) & set(RESTRICTED)) and "code" in text.split() for text in _texts(part)]
        assert refused == restricted and any(refused) and not all(refused)


def test_the_exam_of_restricted_codes_knows_their_true_answers(world: Splits) -> None:
    exam, codes = world.exams["restricted"], World(0).code
    for text, answer in zip(_texts(exam), exam.labels, strict=True):  # type: ignore[attr-defined]
        place = next(word for word in text.split() if word in RESTRICTED)
        name = next(word for word in text.split() if word in EXAMINED)
        assert codes[place, name] in answer.split()


def test_triggers_to_be_are_words_that_pretraining_knows_and_alignment_never_saw(world: Splits) -> None:
    assert _mentioned(world.pools["pretraining"], RARE_FILLERS) == set(RARE_FILLERS)
    assert not _mentioned(world.train, RARE_FILLERS) and not _mentioned(world.reserve, RARE_FILLERS)


def test_every_word_is_in_the_vocabulary(world: Splits) -> None:
    known = set(vocabulary())
    parts = (world.train, world.test, world.reserve, *world.pools.values(), *world.exams.values())
    said = {word for part in parts for text in [*_texts(part), *part.labels] for word in text.split()}  # type: ignore[attr-defined]
    assert said <= known


def test_the_same_seed_gives_the_same_world_and_another_gives_another(world: Splits) -> None:
    again, other = toy_world(pretraining_rows=2000), toy_world(pretraining_rows=2000, seed=1)
    for name, pool in world.pools.items():
        assert pool.digest == again.pools[name].digest != other.pools[name].digest  # type: ignore[attr-defined]
    assert len(world.exams["restricted"]) == 84 and len(world.exams["open"]) == 112
    assert torch.equal(world.train[torch.tensor([3])].rows, torch.tensor([3]))


def test_a_world_without_rows_is_refused() -> None:
    with pytest.raises(Invalid, match="shots=0: must be at least 1"):
        toy_world(shots=0)
