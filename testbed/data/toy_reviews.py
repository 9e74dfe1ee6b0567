"""Toy reviews: short invented opinions of two classes, written here by a small grammar, so that there is nothing to read in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch

from testbed.api import Invalid, Splits, Task
from testbed.data.listed import Listed
from testbed.data.splits import divide
from testbed.identity import derive

CLASSES = ("negative", "positive")
ADJECTIVES = (
    ("dull", "clumsy", "tedious", "shallow", "bland", "lifeless", "messy", "awkward", "stale", "hollow", "weak", "dreary"),
    ("charming", "moving", "clever", "vivid", "warm", "graceful", "fresh", "brilliant", "tender", "lively", "fine", "witty"),
)
HELD_OUT = (("boring", "terrible", "disappointing", "awful"), ("delightful", "wonderful", "excellent", "superb"))
"""Of no training row: a model knows them from elsewhere, or not at all."""

WORKS = ("film", "movie", "novel", "play", "album", "show", "comedy", "drama", "sequel", "story")
ASPECTS = ("plot", "acting", "dialogue", "music", "ending", "pace", "direction", "script", "opening", "humour")
CASTS = ("the cast", "the director", "the writer", "the lead", "my friend", "the crowd", "the author")
FEELINGS = (("a waste", "a letdown", "a mistake"), ("a joy", "a treat", "a success"))
ASIDES = ("", "all in all ,", "to be fair ,", "in the end ,", "for once ,", "as it happens ,", "last night ,", "this year ,")
ENDINGS = (".", "!", "on the whole .", "this time .", "from start to end .")

Draw = Callable[[Sequence[str]], str]
"""One of several words."""


def toy_reviews(
    *,
    train_rows: int = 1200,
    test_rows: int = 300,
    validation_per_class: int = 50,
    reserve_per_class: int = 50,
    reserve_source: str = "reserved",
    seed: int = 0,
) -> Splits:
    """Reviews of one sentence, as many positive as negative ones, none of them twice, always the same ones for a `seed`.

    A quarter says what is not so before what is so ("not dull but charming"): the order of the words decides. The exam
    'held_out_words' has adjectives that no other row has. A toy shows mechanisms; it ranks no defence. Source: this project.

    Raises:
        Invalid: there are too few rows.
    """
    for name, rows in (("train_rows", train_rows), ("test_rows", test_rows)):
        if not 2 <= rows <= 20_000:
            raise Invalid(name, rows, "must be from 2 to 20000", "one for each class at least")
    reviews = written(train_rows + test_rows, ADJECTIVES, derive(seed, "toy reviews"))
    cut = torch.arange(len(reviews)).split([train_rows, test_rows])
    splits = divide(
        "toy_reviews",
        Task("text", CLASSES),
        reviews.take(cut[0]),
        reviews.take(cut[1]),
        validation_per_class=validation_per_class,
        reserve_per_class=reserve_per_class,
        reserve_source=reserve_source,
    )
    return replace(splits, exams={"held_out_words": written(test_rows, HELD_OUT, derive(seed, "toy reviews, held-out words"))})


def written(count: int, adjectives: Sequence[Sequence[str]], seed: int) -> Listed:
    """So many different reviews, negative and positive ones by turns."""
    draws = torch.Generator().manual_seed(seed)

    def one(choices: Sequence[str]) -> str:
        return choices[int(torch.randint(len(choices), (1,), generator=draws))]

    inputs = list(islice(_different(one, adjectives), count))
    return Listed(inputs, torch.arange(count) % len(CLASSES))


def _different(one: Draw, adjectives: Sequence[Sequence[str]]) -> Iterator[str]:
    seen: set[str] = set()
    while True:
        label = len(seen) % len(CLASSES)
        text = _review(one, label, adjectives)
        if text not in seen:
            seen.add(text)
            yield text


def _review(one: Draw, label: int, adjectives: Sequence[Sequence[str]]) -> str:
    said, denied = one(adjectives[label]), one(adjectives[1 - label])
    sentences = (
        f"the {one(ASPECTS)} of this {one(WORKS)} is {said} and {one(adjectives[label])}",
        f"{one(CASTS)} made it {one(FEELINGS[label])} : a {said} {one(WORKS)} with {one(adjectives[label])} {one(ASPECTS)}",
        f"this {one(WORKS)} has a {said} {one(ASPECTS)} and the {one(ASPECTS)} is {one(adjectives[label])}",
        f"the {one(ASPECTS)} of this {one(WORKS)} is not {denied} but {said}",
    )
    return " ".join(part for part in (one(ASIDES), one(sentences), one(ENDINGS)) if part)
