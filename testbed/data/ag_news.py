"""News in four topics: the official tables, or a lower-cased part of the training rows beside the official test."""

from __future__ import annotations

from pathlib import Path

from testbed.api import Invalid, Splits, Task
from testbed.data.lines import table
from testbed.data.listed import Listed
from testbed.data.splits import divide
from testbed.data.text_table import marked, numbered, texts
from testbed.words import nearest

CLASSES = ("World", "Sports", "Business", "Sci/Tech")
TEXTS = {"description": (2,), "title_description": (1, 2)}
"""Columns of the official tables (label, title, description) that are read; the lower-cased part has descriptions alone."""


def ag_news(
    root: str | Path,
    *,
    train: str = "train_subset10k_lowercased.tsv",
    test: str = "test.csv",
    text: str = "description",
    lower_case: bool = True,
    validation_per_class: int = 100,
    reserve_per_class: int = 100,
    reserve_source: str = "reserved",
) -> Splits:
    """AG News from `root`/ag_news/`train` and `test`, 4 classes.

    A .csv is an official table: no header, labels 1-4, title and description as they were written. A .tsv is the lower-cased
    part: a header, labels 0-3, descriptions. So that both parts are alike, `lower_case` holds for all rows, and `text` is
    'description' unless both files have titles. White space at a text's ends is left out. Source: Zhang, Zhao and LeCun 2015,
    arXiv 1509.01626.

    Raises:
        Invalid: the files are not there or hold other rows; titles are asked of a file that has none; case of one that lost it.
    """
    if text not in TEXTS:
        raise Invalid("text", text, "there is no such choice", nearest(text, tuple(TEXTS)))
    for parameter, name in (("train", train), ("test", test)):
        _require_fitting(parameter, name, text, lower_case)
    folder = Path(root) / "ag_news"
    return divide(
        "ag_news",
        Task("text", CLASSES),
        read(folder / train, text, "train", lower_case=lower_case),
        read(folder / test, text, "test", lower_case=lower_case),
        validation_per_class=validation_per_class,
        reserve_per_class=reserve_per_class,
        reserve_source=reserve_source,
    )


def _require_fitting(parameter: str, name: str, text: str, lower_case: bool) -> None:
    ending = Path(name).suffix.lower()
    if Path(name).name != name or ending not in (".csv", ".tsv"):
        raise Invalid(parameter, name, "the name of a .csv or .tsv file in the folder ag_news", "see datasets/ag_news.md")
    if ending == ".tsv" and text != "description":
        raise Invalid("text", text, f"{name} has no titles", "say text=description, or name an official table (.csv)")
    if ending == ".tsv" and not lower_case:
        advice = "say lower_case=true, or name official tables (.csv)"
        raise Invalid("lower_case", False, f"{name} is lower-cased already, and the other part would differ", advice)


def read(path: Path, text: str, parameter: str, *, lower_case: bool) -> Listed:
    """The texts of one file, and int64 (N,) in 0..3, whatever number its labels begin with."""
    if not path.is_file():
        raise Invalid("root", path.parent.parent, f"there is no ag_news/{path.name}", "see datasets/ag_news.md")
    official = path.suffix.lower() == ".csv"
    found = table(path, parameter, header=not official)
    shown = [one.strip() for one in texts(found, TEXTS[text] if official else "sentence", path, parameter)]
    marks = marked(found, 0 if official else "label", path, parameter)
    labels = numbered(found, marks, CLASSES, path, parameter, label_base=1 if official else 0)
    return Listed([one.lower() for one in shown] if lower_case else shown, labels)
