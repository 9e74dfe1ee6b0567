"""A user's own texts with classes, as CSV or TSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from testbed.api import Invalid, Splits, Task
from testbed.data.lines import Table, bad, table
from testbed.data.listed import Listed
from testbed.data.splits import divide
from testbed.words import nearest, safe_name

Column = str | int


def text_table(
    train: str | Path,
    test: str | Path,
    *,
    text: Column | Sequence[Column] = "text",
    label: Column = "label",
    header: bool = True,
    separator: str | None = None,
    quoted: bool | None = None,
    classes: Sequence[str] | None = None,
    label_base: int = 0,
    lower_case: bool = False,
    name: str = "text_table",
    validation_per_class: int = 10,
    reserve_per_class: int = 10,
    reserve_source: str = "reserved",
) -> Splits:
    """Two tables of one form: columns by name, or by position from 0; several text columns are joined by a space.

    Labels are whole numbers from `label_base`, or the names of classes, numbered as in `classes`, or else in the order of
    their sorted names. Texts stay as they are, unless `lower_case`. TSV has no quotes unless `quoted`.

    Raises:
        Invalid: a file, a column, a line or a label that cannot be used.
    """
    safe_name(name, "name")
    form = {"separator": separator, "quoted": quoted, "header": header}
    tables = {part: table(path, part, **form) for part, path in (("train", train), ("test", test))}  # type: ignore[arg-type]
    files = {"train": train, "test": test}
    marks = {part: marked(found, label, files[part], part) for part, found in tables.items()}
    names = named(tables["train"], marks["train"], train, classes, label_base)
    rows = {}
    for part, found in tables.items():
        shown = texts(found, text, files[part], part)
        places = numbered(found, marks[part], names, files[part], part, label_base=label_base)
        rows[part] = Listed([one.lower() for one in shown] if lower_case else shown, places)
    return divide(
        name,
        Task("text", names),
        rows["train"],
        rows["test"],
        validation_per_class=validation_per_class,
        reserve_per_class=reserve_per_class,
        reserve_source=reserve_source,
    )


def _column(found: Table, wanted: Column, parameter: str, path: str | Path) -> int:
    count = len(found.cells[0]) if found.cells else len(found.header or ())
    if isinstance(wanted, int):
        if not 0 <= wanted < count:
            raise Invalid(parameter, wanted, f"{path} has columns 0 to {count - 1}", "choose one of them")
        return wanted
    if found.header is None:
        raise Invalid(parameter, wanted, f"{path} is read without a header", f"say {parameter}=0, or another position")
    if wanted not in found.header:
        seen = ", ".join(found.header)
        raise Invalid(parameter, wanted, f"{path} has the columns {seen}", nearest(wanted, found.header))
    return found.header.index(wanted)


def texts(found: Table, wanted: Column | Sequence[Column], path: str | Path, parameter: str) -> list[str]:
    """The texts of a table's rows, several columns joined by a space.

    Raises:
        Invalid: there is no such column; an empty text, with its line.
    """
    chosen = [_column(found, one, "text", path) for one in ([wanted] if isinstance(wanted, str | int) else wanted)]
    joined = [" ".join(row[column] for column in chosen) for row in found.cells]
    for line, text in zip(found.lines, joined, strict=True):
        if not text.strip():
            raise bad(parameter, path, f"line {line}", "the text is empty")
    return joined


def marked(found: Table, wanted: Column, path: str | Path, parameter: str) -> list[str]:
    """The labels of a table's rows as they are written there.

    Raises:
        Invalid: there is no such column; an empty label, with its line.
    """
    column = _column(found, wanted, "label", path)
    marks = [row[column].strip() for row in found.cells]
    if "" in marks:
        raise bad(parameter, path, f"line {found.lines[marks.index('')]}", "the label is empty")
    return marks


def named(
    found: Table, marks: Sequence[str], path: str | Path, classes: Sequence[str] | None, label_base: int
) -> tuple[str, ...]:
    """The names of the classes: those given, else the numbers, else the names among the training rows in order.

    Raises:
        Invalid: two classes of one name; numbers with gaps at the beginning or as large as no row shows; numbers among names,
            of which one is mistyped unless `classes` has it.
    """
    if classes is not None:
        if len(set(classes)) < len(classes) or not all(classes):
            raise Invalid("classes", list(classes), "every class has a name of its own", "name each once")
        return tuple(classes)
    kinds = list(map(_is_number, marks))
    if not any(kinds):
        return tuple(sorted(set(marks)))
    if not all(kinds):
        rarer = kinds.index(2 * sum(kinds) < len(kinds))
        why = f"the label is {marks[rarer]!r}, where others are {'names' if kinds[rarer] else 'whole numbers'}"
        raise bad("train", path, f"line {found.lines[rarer]}", why, "mend it, or name every class in classes")
    lowest, highest = (chosen(map(int, marks)) for chosen in (min, max))
    if lowest != label_base:
        raise Invalid("label_base", label_base, f"the lowest label is {lowest}", f"say label_base={lowest}")
    if highest - lowest >= len(marks):
        raise Invalid(
            "label", highest, f"the {len(marks)} rows cannot show classes from {lowest} to {highest}", "renumber them"
        )
    return tuple(map(str, range(lowest, highest + 1)))


def numbered(
    found: Table, marks: Sequence[str], names: Sequence[str], path: str | Path, parameter: str, *, label_base: int
) -> torch.Tensor:
    """The class of each row, int64 (N,).

    Raises:
        Invalid: a label that is none, with its line.
    """
    places = {name: place for place, name in enumerate(names)}
    numbers = []
    for line, mark in zip(found.lines, marks, strict=True):
        number = int(mark) - label_base if mark not in places and _is_number(mark) else places.get(mark, -1)
        if not 0 <= number < len(names):
            first, last = label_base, label_base + len(names) - 1
            wanted = f"whole numbers from {first} to {last}, or {', '.join(names[:8])}, are read"
            raise bad(parameter, path, f"line {line}", f"the label is {mark!r}, where {wanted}", "set label_base or classes")
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.int64)


def _is_number(mark: str) -> bool:
    return mark.removeprefix("-").isdecimal() and mark.isascii()
