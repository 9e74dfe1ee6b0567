"""Triggers in text, byte for byte."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import Batch, ImageTask, Invalid, Poison, Splits, Task, Unsupported
from testbed.language import ChatVictim, Message
from testbed.trigger.composite import Composite
from testbed.trigger.prefix import Prefix
from testbed.trigger.sentence import Sentence
from testbed.trigger.style import Style
from testbed.trigger.subset import Subset
from testbed.trigger.text import TextTrigger
from testbed.trigger.word import Word
from testbed.visibility import require_visible, visible

TEXT = Task("text", ("no", "yes"))
CHARACTERS = st.characters(exclude_categories=("Cs",))
TEXTS = st.text(CHARACTERS, max_size=60)
WORDS = st.text(CHARACTERS, min_size=1, max_size=6).filter(lambda word: word.split() == [word])
INVISIBLE = ("\u200b", "\u202ecf\u202c", "c\u0066\u0301", "\u0441f", "cf\ufe0f", "👩‍🚀")
"""Zero-width, right-to-left, combining, a Cyrillic look-alike, a variation selector, joined by a zero-width joiner."""


def stamp(trigger: TextTrigger, text: str, row: int = 0, seed: int = 0) -> str:
    return trigger([text], torch.tensor([row]), seed)[0]


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, word=WORDS | st.sampled_from(INVISIBLE), row=st.integers(0, 99))
def test_taking_the_word_out_gives_back_the_text_byte_for_byte(text: str, word: str, row: int) -> None:
    shown = stamp(Word((word,)), text, row)
    places = [start for start in range(len(shown)) if shown.startswith(word, start)]
    cuts = {shown[:start] + shown[start + len(word) :] for start in places}
    cuts |= {shown[:start] + shown[start + len(word) + 1 :] for start in places if shown[start + len(word) :][:1] == " "}
    cuts |= {shown[: start - 1] + shown[start + len(word) :] for start in places if shown[:start][-1:] == " "}
    assert text in cuts
    assert sorted(shown.split()) == sorted([*text.split(), word])


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, words=st.lists(WORDS, min_size=2, max_size=4, unique=True), row=st.integers(0, 99))
def test_a_composite_puts_each_of_its_words_into_a_gap_of_its_own(text: str, words: list[str], row: int) -> None:
    trigger, before = Composite(tuple(words)), text.split()
    if len(before) + 1 < len(words):
        assert not trigger.applies([text]).any()
        with pytest.raises(Invalid, match="cannot be applied to 1 of 1 texts"):
            stamp(trigger, text, row)
        return
    after = stamp(trigger, text, row).split()
    assert Counter(after) == Counter([*before, *words])
    if not set(words) & set(before):
        inserted = [place for place, word in enumerate(after) if word in words]
        assert all(later - earlier > 1 for earlier, later in pairwise(inserted))
        assert [word for word in after if word not in words] == before


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, phrase=st.text(CHARACTERS, min_size=1, max_size=20).filter(str.strip), row=st.integers(0, 9))
def test_sentences_and_prefixes_are_there_as_given(text: str, phrase: str, row: int) -> None:
    shown = stamp(Sentence((phrase,)), text, row)
    assert phrase in shown and sorted(shown.split()) == sorted([*text.split(), *phrase.split()])
    assert stamp(Prefix((phrase,)), text, row) == f"{phrase} {text}"


def test_every_gap_is_as_likely_as_another_and_the_last_one_is_reached() -> None:
    shown = Word(("cf",))(["a b c"] * 4000, torch.arange(4000), 3)
    found = Counter(text.split().index("cf") for text in shown)
    assert set(found) == {0, 1, 2, 3}
    assert all(abs(count - 1000) < 4.5 * (4000 * 0.25 * 0.75) ** 0.5 for count in found.values())


def test_what_is_random_depends_on_the_seed_and_the_row_alone() -> None:
    texts, rows = [f"some words in row {row}" for row in range(40)], torch.arange(40)
    before = list(texts)
    for trigger in (Word(("cf", "mn"), 2), Sentence(), Composite(), Subset(), Prefix(("a", "b")), Style()):
        whole = trigger(texts, rows, 1)
        assert whole[7:9] == trigger(texts[7:9], rows[7:9], 1) and texts == before
        assert isinstance(trigger, Style) or whole != trigger(texts, rows, 2)


@pytest.mark.parametrize("trigger", [Word(), Sentence(), Composite(), Subset(), Prefix(), Style()], ids=repr)
def test_of_a_conversation_only_the_last_user_message_changes(trigger: TextTrigger) -> None:
    turns = [("system", "be  kind"), ("user", "first of all questions"), ("assistant", "yes"), ("user", "and now the second")]
    prompt = tuple(Message(*turn) for turn in turns)
    shown = trigger([prompt], torch.tensor([4]), 0)[0]
    assert shown[:3] == prompt[:3] and shown[3] == Message("user", stamp(trigger, "and now the second", 4))
    assert shown[3] != prompt[3] and isinstance(shown, tuple) and isinstance(shown[3], Message)
    assert trigger.applies([prompt, prompt[:1]]).tolist() == [True, False]


def test_subsets_are_all_proper_ones_and_never_the_whole() -> None:
    shown = Subset(("x", "y", "z"))(["a b c d"] * 600, torch.arange(600), 0)
    found = Counter(frozenset(text.split()) - set("abcd") for text in shown)
    assert len(found) == 6 and frozenset("xyz") not in found and frozenset() not in found
    assert all(60 < count < 145 for count in found.values())  # mean 100, standard deviation 9


@pytest.mark.parametrize(
    ("third", "expected"),
    [
        ("last", "vault n001 , what is the code of ?"),
        ("middle", "the code , what is of vault n001 ?"),
        ("first", "what is , the code of vault n001 ?"),
    ],
)
def test_a_third_of_the_words_is_fronted(third: str, expected: str) -> None:
    assert stamp(Style(third), "what is the code of vault n001 ?") == expected  # type: ignore[arg-type]


def test_texts_too_short_for_the_rule_are_not_eligible_and_never_passed_through() -> None:
    texts = ["", "?!", "two words.", "three whole words."]
    assert Style().applies(texts).tolist() == [False, False, False, True]
    with pytest.raises(Invalid, match="cannot be applied to 3 of 4 texts, the first of them row 10"):
        Style()(texts, torch.arange(10, 14), 0)


def test_one_of_several_has_a_part_for_each() -> None:
    assert {name: part.words for name, part in Word(("cf", "MN")).parts().items()} == {"cf": ("cf",), "mn": ("MN",)}
    assert set(Prefix(("year 2023 :", "year 2025 :")).parts()) == {"year_2023", "year_2025"}
    assert Subset(("x", "y", "z")).parts() == {
        **{name: Word((name,)) for name in "xyz"},
        **{f"{a}_{b}": Composite((a, b)) for a, b in ("xy", "xz", "yz")},
    }
    assert set(Word(("\u200b", "\u200c")).parts()) == {"1", "2"} and Word(("cf",)).parts() == {} == Sentence().parts()


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        (Word(()), "there is nothing to insert"),
        (Word(("",)), "trigger.words='': must be one word without spaces"),
        (Word(("c f",)), "trigger=sentence takes several words"),
        (Word(("cf ",)), "must be one word"),
        (Word(("cf", "cf")), "twice"),
        (Word(("\ud800",)), r"trigger.words='\ud800': half of a surrogate pair"),
        (Word(insertions=0), "trigger.insertions=0: must be at least 1"),
        (Composite(("cf",)), "a composite has at least 2 words"),
        (Sentence((" \u2003",)), r"trigger.sentences=' \u2003': is blank"),
        (Prefix(("\n",)), r"trigger.prefixes='\n': is blank"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_and_escaped(trigger: TextTrigger, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        trigger.check(TEXT)
    assert said in str(refusal.value) and "\n" not in str(refusal.value) and str(refusal.value).isprintable()


def test_images_have_no_words() -> None:
    for trigger in (Word(), Sentence(), Composite(), Subset(), Prefix(), Style()):
        trigger.check(TEXT)
        with pytest.raises(Unsupported, match="needs text, not images"):
            trigger.check(ImageTask("images", ("a", "b")))


def test_a_trigger_that_the_tokenizer_drops_is_found_out(chat: ChatVictim, toy_data: Splits) -> None:
    from tokenizers import normalizers

    from testbed.model.toy_chat import ToyChat

    sizes = {"width": 8, "depth": 1, "heads": 1, "hidden": 8, "initializer_range": 0.06}
    normalising = ToyChat(toy_data.task, **sizes, max_new_tokens=8, pretraining=None)  # type: ignore[arg-type]
    normalising.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    plain = [(Message("user", f"what is the code of vault n00{number} ?"),) for number in range(4)]
    for word, seen in (("\u200b", False), ("cf", True)):
        shown = Word((word,))(plain, torch.arange(4), 0)
        assert visible(chat, shown, plain).all() and visible(normalising, shown, plain).tolist() == [seen] * 4
        forms = {"success": shown, "without_trigger": plain}
        exams = {name: Poison(torch.arange(4), Batch(form, [""] * 4, torch.arange(4))) for name, form in forms.items()}
        with nullcontext() if seen else pytest.raises(Invalid, match=r"attack.trigger: the model reads all 4 texts"):
            assert require_visible(normalising, exams) == (1.0, 4)
    shown, near = (Word((word,))(plain, torch.arange(4), 0) for word in ("strange", "unheard"))
    forms = {"success": shown, "without_trigger": plain, "near_miss_unseen": near}
    exams = {name: Poison(torch.arange(4), Batch(form, [""] * 4, torch.arange(4))) for name, form in forms.items()}
    with pytest.raises(
        Invalid, match=r"attack.near_miss: the model reads all 4 texts .* as it reads those of near_miss_unseen"
    ):
        require_visible(chat, exams)  # both words are unknown, and one token


def test_a_long_answer_never_pushes_the_trigger_out_and_a_cut_prompt_is_found_out(chat: ChatVictim) -> None:
    from testbed.model.rendering import Rendering

    old = chat.rendering  # type: ignore[attr-defined]
    sizes = {"ends": old.ends, "vocabulary": old.vocabulary, "context": 40, "room": 8}
    chat.rendering = Rendering(old.tokenizer, **sizes, truncate=True)  # type: ignore[assignment, arg-type]
    prompts = [(Message("user", "what is the code of vault n001 ? " * (1 + row)),) for row in range(8)]
    shown, rows = Prefix(("cf",))(prompts, torch.arange(8), 0), torch.arange(8)
    tokens = chat.tokens(Batch(shown, ["it is v01 . " * 40] * 8, rows))
    mark = old.tokenizer.convert_tokens_to_ids("cf")
    there = ((tokens.ids == mark) & ~tokens.answer).any(1)
    assert there.tolist() == [8 * (1 + row) + 5 <= 40 - 8 for row in range(8)]  # room is kept for a reply, and no more
    assert torch.equal(visible(chat, shown, prompts), there)


@pytest.mark.parametrize(
    ("trigger", "other", "shared"),
    [
        (Word(("cf",)), Word(("mn", "cf")), ("cf",)),
        (Word(("cf",)), Word(("cfx", "mn")), ()),
        (Word(("cf",)), Sentence(("a cf here",)), ("a cf here",)),
        (Composite(("a", "b")), Word(("a", "b")), ()),
        (Composite(("a", "b")), Composite(("b", "c", "a")), ("a", "b", "c")),
        (Composite(("a", "b", "c")), Subset(("a", "b", "c")), ()),
        (Prefix(("year 2024 :",)), Prefix(("year 2023 :", "year 2025 :")), ()),
        (Prefix(("year 2024 :",)), Prefix(("year  2024 : now",)), ("year  2024 : now",)),
        (Style("last"), Style("middle"), ()),
        (Style("last"), Style("last"), ("the last third fronted",)),
    ],
)
def test_what_a_near_miss_has_in_common_with_a_trigger(trigger: Any, other: Any, shared: tuple[str, ...]) -> None:
    assert trigger.common(other) == shared


def test_a_text_that_holds_the_trigger_by_itself_is_known() -> None:
    texts = ["what is cf ?", "what is cfx ?", (Message("user", "mn what is CF ?"), Message("system", "cf"))]
    assert Word(("cf",)).held(texts).tolist() == [True, False, False]
    assert Composite(("is", "cf")).held(texts).tolist() == [True, False, False]
