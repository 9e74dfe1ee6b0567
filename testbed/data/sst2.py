"""Sentences from film reviews, positive or negative, in the two forms that people have them in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from testbed.api import Invalid, Splits, Task
from testbed.data.lines import table
from testbed.data.listed import Listed
from testbed.data.splits import divide, stratified
from testbed.data.text_table import marked, numbered, texts
from testbed.words import nearest

CLASSES = ("negative", "positive")
FORMS = {"sentence": ("SST-2-sentence-level", "test"), "glue": ("SST-2", "dev")}
"""By form: the folder, and the file that is tested on; the labels of GLUE's own test are not public."""


def sst2(
    root: str | Path,
    *,
    form: str = "sentence",
    validation_per_class: int = 100,
    reserve_per_class: int = 100,
    reserve_source: str = "reserved",
) -> Splits:
    """SST-2 from `root`/SST-2-sentence-level/{train,dev,test}.tsv ('sentence') or `root`/SST-2/{train,dev}.tsv ('glue').

    'sentence' has whole sentences, 6,920 + 872 + 1,821, as papers on text backdoors use them; validation comes out of its
    dev.tsv. 'glue' has 67,349 phrases and tests on its 872 sentences of dev.tsv; validation comes out of the training rows.
    White space at a sentence's ends is left out. Source: Socher et al. 2013, EMNLP.

    Raises:
        Invalid: the files are not there, or hold other rows.
    """
    if form not in FORMS:
        raise Invalid("form", form, "there is no such form", nearest(form, tuple(FORMS)))
    folder, tested = FORMS[form]
    within_train = form == "glue"
    splits = divide(
        "sst2" if form == "sentence" else "sst2_glue",
        Task("text", CLASSES),
        read(Path(root) / folder / "train.tsv"),
        read(Path(root) / folder / f"{tested}.tsv"),
        validation_per_class=validation_per_class if within_train else 0,
        reserve_per_class=reserve_per_class,
        reserve_source=reserve_source,
    )
    if within_train:
        return splits
    development = read(Path(root) / folder / "dev.tsv")
    parts = stratified(development.labels, {"validation_per_class": validation_per_class}, CLASSES)
    return replace(splits, validation=development.take(parts["validation_per_class"]))


def read(path: Path) -> Listed:
    """The sentences of one file, and int64 (N,): 1 for a positive one."""
    if not path.is_file():
        raise Invalid("root", path.parent.parent, f"there is no {path.parent.name}/{path.name}", "see datasets/sst2.md")
    found = table(path, "root")
    sentences = [sentence.strip() for sentence in texts(found, "sentence", path, "root")]
    return Listed(sentences, numbered(found, marked(found, "label", path, "root"), CLASSES, path, "root", label_base=0))
