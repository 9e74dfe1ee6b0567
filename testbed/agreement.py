"""How far two judges agree, or a judge and a person."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from testbed.answers import json_lines
from testbed.api import Invalid
from testbed.language import OUTCOMES

NAMING = ("run", "exam", "victim", "step", "row", "prompt_sha256")
"""What a labelled row may name its reply by."""


class Agreement(NamedTuple):
    """Cohen's kappa (None where it is not defined), the share of equal verdicts, of how many, and the outcomes told apart."""

    kappa: float | None
    share: float
    n: int
    outcomes: tuple[str, ...]


class Label(NamedTuple):
    """A person's verdict on one reply: `named` says which, `line` where it stands in the file."""

    line: int
    named: dict[str, Any]
    outcome: str


def agreement(
    first: Sequence[str],
    second: Sequence[str],
    *,
    tells: Collection[str] | None = None,
    others: Collection[str] | None = None,
) -> Agreement | None:
    """Over the outcomes that both can tell apart: what either cannot tell counts as 'comply'. None for no verdicts.

    kappa = (p_o - p_e) / (1 - p_e), with p_e the agreement of independent judges of the same habits; not defined where both
    always say one and the same. `tells` are the first one's outcomes, `others` the second one's; where None, those that it
    said. Source: Cohen 1960, Educational and Psychological Measurement 20.
    """
    if not first:
        return None
    common = set(first if tells is None else tells) & set(second if others is None else others)
    one, other = ([verdict if verdict in common else "comply" for verdict in said] for said in (first, second))
    told = tuple(outcome for outcome in OUTCOMES if outcome in {*one, *other})
    share = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
    if len(told) < 2:
        return Agreement(None, share, len(one), told)
    from sklearn.metrics import cohen_kappa_score  # two seconds, for this alone

    return Agreement(float(cohen_kappa_score(one, other, labels=list(told))), share, len(one), told)


def read_labels(path: Path) -> list[Label]:
    """A person's verdicts: a CSV file or JSON lines with `exam`, `label`, and `row` or `prompt_sha256`.

    `run`, `victim` and `step` narrow down which reply is meant; without `victim` it is the run's own victim's.

    Raises:
        Invalid: the file and the line where something is missing or is no outcome.
    """
    labels = [_label(number, row, path) for number, row in _rows(path)]
    if not labels:
        raise Invalid("", path, "holds no labels", component="labels")
    return labels


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix.lower() != ".csv":
        yield from json_lines(path, "labels")
        return
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid("", path, f"cannot be read ({error})", component="labels") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, {name: value for name, value in row.items() if value not in (None, "")}
    except csv.Error as error:
        raise Invalid("", f"{path} line {reader.line_num + 1}", f"is no CSV ({error})", component="labels") from error


def _label(line: int, row: Any, path: Path) -> Label:
    where = f"{path} line {line}"
    if not isinstance(row, dict) or "exam" not in row or "label" not in row or not {"row", "prompt_sha256"} & row.keys():
        raise Invalid("", where, "must have exam, label, and row or prompt_sha256", component="labels")
    if row["label"] not in OUTCOMES:
        limit = f"label {row['label']!r} is no outcome"
        raise Invalid("", where, limit, f"choose from {', '.join(OUTCOMES)}", "labels")
    named = {name: row[name] for name in NAMING if row.get(name) is not None}
    try:
        named |= {name: int(named[name]) for name in ("row", "step") if name in named}
    except (TypeError, ValueError) as error:
        raise Invalid("", where, "row and step must be whole numbers", component="labels") from error
    return Label(line, named, row["label"])


def labelled(labels: Sequence[Label], rows: Sequence[Mapping[str, Any]], path: Path) -> list[tuple[int, str]]:
    """The place in `rows` (of `answers.jsonl`) that each label is about, with the label.

    Raises:
        Invalid: a label that is about no reply, or about several that differ.
    """
    by_exam: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        by_exam.setdefault(row["exam"], []).append(place)
    found = []
    for label in labels:
        wanted = {"victim": "", **{name: value for name, value in label.named.items() if name != "run"}}
        places = [
            place
            for place in by_exam.get(str(wanted["exam"]), [])
            if all(rows[place].get(name) == value for name, value in wanted.items())
        ]
        if len({rows[place]["reply"] for place in places}) != 1:
            limit = f"is about {len(places)} replies that differ" if places else "is about no reply of this run"
            raise Invalid(
                "", f"{path} line {label.line}", limit, "give exam, row, step and victim as they are stored", "labels"
            )
        found.append((places[0], label.outcome))
    return found
