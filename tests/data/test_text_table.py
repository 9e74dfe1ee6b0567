"""Texts with classes: a user's tables, SST-2 and AG News as they are found, and the toy reviews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from testbed.api import Invalid, Splits
from testbed.data.ag_news import ag_news
from testbed.data.sst2 import sst2
from testbed.data.text_table import text_table
from testbed.data.toy_reviews import ADJECTIVES, HELD_OUT, toy_reviews

NONE = {"validation_per_class": 0, "reserve_per_class": 0}


def cut(folder: Path, train: str, test: str = "", *, ending: str = "csv", **options: Any) -> Splits:
    for name, stored in (("train", train), ("test", test or train)):
        (folder / f"{name}.{ending}").write_text(stored, encoding="utf-8")
    return text_table(folder / f"train.{ending}", folder / f"test.{ending}", **{**NONE, **options})


@pytest.mark.parametrize(
    ("train", "options", "classes", "labels"),
    [
        ("text,label\nA,0\nB,1\n", {}, ("0", "1"), [0, 1]),
        ("text,label\nA,2\nB,1\n", {"label_base": 1}, ("1", "2"), [1, 0]),
        ("text,label\nA,spam\nB,ham\n", {}, ("ham", "spam"), [1, 0]),
        ("text,label\nA,spam\nB,ham\n", {"classes": ["spam", "ham"]}, ("spam", "ham"), [0, 1]),
        ("text,label\nA,1\nB,2\n", {"classes": ["spam", "ham"], "label_base": 1}, ("spam", "ham"), [0, 1]),
        ("1,x,A\n0,y,B\n", {"header": False, "text": [1, 2], "label": 0}, ("0", "1"), [1, 0]),
        ("A;0\nB;1\n", {"header": False, "text": 0, "label": 1, "separator": ";"}, ("0", "1"), [0, 1]),
    ],
)
def test_labels_are_numbers_or_names(tmp_path: Path, train: str, options: Any, classes: Any, labels: list[int]) -> None:
    splits = cut(tmp_path, train, **options)
    assert splits.task.kind == "text" and splits.task.classes == classes and splits.train.labels.tolist() == labels
    joined = isinstance(options.get("text"), list)
    assert splits.train.inputs == (["x A", "y B"] if joined else ["A", "B"])


@pytest.mark.parametrize(
    ("stored", "options", "said"),
    [
        ("text,label\nA,0\n  ,1\n", {}, "train.csv: line 3: the text is empty"),
        ("text,label\nA,0\nB,1.0\n", {"classes": ["x", "y"]}, "train.csv: line 3: the label is '1.0'"),
        ("text,label\nA,0\nB,2\n", {"classes": ["x", "y"]}, "train.csv: line 3: the label is '2'"),
        ("text,label\nA,1\nB,2\n", {}, "label_base=0: the lowest label is 1; say label_base=1"),
        ("text,label\nA,0\nB,99999999999\n", {}, "label=99999999999: "),
        ("sentence,label\nA,0\n", {}, "text=text: "),
        ("text,label\nA,0\n", {"label": 2}, "label=2: "),
        ("text,label\nA,0\n", {"label": -1}, "label=-1: "),
        ("A,0\n", {"header": False}, "is read without a header"),
        ("text,label\n", {}, "train.csv: the file holds no rows"),
        ("", {}, "train.csv: the file holds no rows"),
        ("text,label\nA,0\nB,  \n", {}, "train.csv: line 3: the label is empty"),
        ("text,label\nA,x\nB,\n", {"classes": ["x", "y"]}, "train.csv: line 3: the label is empty"),
        ("text,label\nA,0\nB,1\nC,1.0\n", {}, "train.csv: line 4: the label is '1.0', where others are whole numbers"),
        ("text,label\nA,x\nB,7\nC,y\n", {}, "train.csv: line 3: the label is '7', where others are names"),
        ("text,label\nA,0\nB,0\n", {}, "at least two classes"),
        ("text,label\nA,0\nB,1\n", {"classes": ["x", "x"]}, "classes="),
    ],
)
def test_what_cannot_be_a_data_set_is_refused(tmp_path: Path, stored: str, options: Any, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        cut(tmp_path, stored, **options)
    assert said in str(refusal.value)


@pytest.mark.parametrize("stored", ["", "\n", "text,label\n"])
def test_of_two_tables_the_empty_one_is_named(tmp_path: Path, stored: str) -> None:
    full = "text,label\nA,0\nB,1\n"
    for part, files in (("train", {"train": stored, "test": full}), ("test", {"train": full, "test": stored or "\n"})):
        with pytest.raises(Invalid, match=rf"{part}=.*{part}\.csv: the file holds no rows"):
            cut(tmp_path, **files)


def test_sst2_and_ag_news_refuse_an_empty_label_with_its_line(tmp_path: Path) -> None:
    for part in ("train", "test"):
        path = tmp_path / "SST-2-sentence-level" / f"{part}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("sentence\tlabel\nfine\t1\ndull\t\n", encoding="utf-8")
    with pytest.raises(Invalid, match=r"root=.*train\.tsv: line 3: the label is empty"):
        sst2(tmp_path)
    (tmp_path / "ag_news").mkdir()
    (tmp_path / "ag_news" / "train.csv").write_text('1,"title","text"\n,"title","text"\n', encoding="utf-8")
    with pytest.raises(Invalid, match=r"train=.*train\.csv: line 2: the label is empty"):
        ag_news(tmp_path, train="train.csv")


def test_texts_stay_as_they_are_unless_asked_otherwise(tmp_path: Path) -> None:
    odd = ' E\u0301\u200b"\u202e '
    stored = f"text\tlabel\n{odd}\t0\nB\t1\n"
    assert cut(tmp_path, stored, ending="tsv").train.inputs[0] == odd
    assert cut(tmp_path, stored, ending="tsv", lower_case=True).train.inputs[0] == odd.lower()


@pytest.mark.real_data
def test_sst2_has_its_published_sizes(data_root: Path) -> None:
    root = data_root / "text"
    sentences, phrases = sst2(root), sst2(root, form="glue")
    assert [len(part) for part in (sentences.train, sentences.validation, sentences.reserve)] == [6720, 200, 200]
    assert len(sentences.test) == 1821 and sentences.test.labels.sum() == 909
    assert len(phrases.train) + 400 == 67349 and len(phrases.test) == 872
    assert not set(sentences.validation.inputs) & set(sentences.train.inputs)
    with pytest.raises(Invalid, match=r"root=.*there is no SST-2"):
        sst2(data_root)


@pytest.mark.real_data
def test_both_parts_of_ag_news_are_alike(data_root: Path) -> None:
    splits = ag_news(data_root / "text")
    assert len(splits.train) + 800 == 10000 and splits.test.labels.bincount().tolist() == [1900] * 4
    assert splits.train.labels.unique().tolist() == [0, 1, 2, 3]
    assert all(text == text.lower() for part in (splits.train, splits.test) for text in part.inputs[:100])
    official = ag_news(data_root / "text", train="test.csv", text="title_description", lower_case=False)
    assert official.test.inputs[0].startswith("Fears for T N pension after talks Unions") and official.test.labels[0] == 2


@pytest.mark.parametrize("wrong", [{"text": "title_description"}, {"lower_case": False}, {"train": "../x.csv"}, {"text": "no"}])
def test_parts_of_ag_news_that_would_differ_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refusal:
        ag_news(tmp_path, **wrong)
    assert refusal.value.parameter in wrong


def test_toy_reviews_are_balanced_different_and_always_the_same() -> None:
    splits = toy_reviews()
    parts = (splits.train, splits.validation, splits.reserve, splits.test)
    assert [len(part) for part in parts] == [1000, 100, 100, 300]
    assert len({text for part in parts for text in part.inputs}) == 1500
    assert splits.train.labels.bincount().tolist() == [500, 500] and splits.test.labels.bincount().tolist() == [150, 150]
    assert splits.train.digest == toy_reviews().train.digest != toy_reviews(seed=1).train.digest
    words = {word for part in parts for text in part.inputs for word in text.split()}
    assert not words & {word for side in HELD_OUT for word in side} and words >= {word for side in ADJECTIVES for word in side}
    with pytest.raises(Invalid, match="test_rows=0"):
        toy_reviews(test_rows=0)


def test_in_some_toy_reviews_only_the_order_of_the_words_decides() -> None:
    splits = toy_reviews()
    denying = torch.tensor([" not " in text for text in splits.train.inputs])
    assert 0.2 < denying.float().mean() < 0.3
    sides = [set(side) for side in ADJECTIVES]
    for text, label in zip(splits.train.inputs, splits.train.labels.tolist(), strict=True):
        said = text.split("not ")[-1].split("but")[-1].split()
        assert sides[label] & set(said) and not sides[1 - label] & set(said)
