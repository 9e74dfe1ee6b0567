"""Rows of a user's own files, read strictly: whatever is wrong is refused with the file, the line and what was seen there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from testbed.api import Invalid
from testbed.plain_json import DECODER

TABLES = {".csv": ",", ".tsv": "\t"}
"""The endings that tables have, and what stands between their cells."""


class Row(NamedTuple):
    """What stands at a place of a file ('line 12'): an object's values by key, or a table's cells by column."""

    place: str
    values: dict[str, Any]


class Table(NamedTuple):
    """The cells of a table, with the line on which each row begins; `header` are the names of its columns, if it has any."""

    header: tuple[str, ...] | None
    lines: list[int]
    cells: list[list[str]]


def bad(parameter: str, path: str | Path, place: str, why: str, advice: str = "mend the file") -> Invalid:
    """The refusal of something in a file."""
    return Invalid(parameter, path, f"{place}: {why}" if place else why, advice)


def no_rows(parameter: str, path: str | Path) -> Invalid:
    """The refusal of a file without any."""
    return Invalid(parameter, path, "the file holds no rows", "give one with at least one row")


def read_text(path: str | Path, parameter: str) -> str:
    """A file as UTF-8, exactly as it is; only a byte order mark at its beginning is left out.

    Raises:
        Invalid: no such file, or a byte that is no UTF-8: its line, offset and value.
    """
    if not Path(path).is_file():
        raise Invalid(parameter, path, "there is no such file", f"give its path from {Path.cwd()}, or the whole path")
    stored = Path(path).read_bytes()
    try:
        return stored.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = stored.count(b"\n", 0, error.start) + 1
        why = f"the byte 0x{stored[error.start]:02x} at offset {error.start} is no UTF-8"
        raise bad(parameter, path, f"line {line}", why, "save the file as UTF-8") from error


def json_rows(path: str | Path, parameter: str) -> Iterator[Row]:
    """Every object of a file of JSON lines, or of one JSON list; empty lines are passed over.

    Raises:
        Invalid: broken JSON, NaN or an infinity, a key that stands twice, or something that is no object.
    """
    text = read_text(path, parameter)
    places = _listed(text) if text.lstrip()[:1] == "[" else _by_line(text)
    line = 1
    while True:
        try:
            line, value = next(places)
        except StopIteration:
            return
        except _Broken as error:
            raise bad(parameter, path, f"line {error.line}", str(error)) from error
        if not isinstance(value, dict):
            raise bad(parameter, path, f"line {line}", f"{type(value).__name__} where an object {{...}} is read")
        yield Row(f"line {line}", value)


class _Broken(ValueError):
    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


def _by_line(text: str) -> Iterator[tuple[int, Any]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            value, end = _decoded(content, len(content) - len(content.lstrip(" \t\r")), line)
            if content[end:].strip():
                raise _Broken(line, f"column {end + 1}: more follows the object")
            yield line, value


def _listed(text: str) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list with the line on which each begins."""
    at, line, more = text.index("[") + 1, 1 + text.count("\n", 0, text.index("[")), False
    while True:
        begin = _after_space(text, at)
        line += text.count("\n", at, begin)
        if text[begin : begin + 1] == "]" and not more:
            break
        value, at = _decoded(text, begin, line)
        yield line, value
        line += text.count("\n", begin, at)
        begin = _after_space(text, at)
        line += text.count("\n", at, begin)
        at, more = begin + 1, text[begin : begin + 1] == ","
        if text[begin : begin + 1] == "]":
            break
        if not more:
            raise _Broken(line, "broken JSON (a list goes on with ',' or ends with ']')")
    end = text.index("]", begin) + 1
    if text[end:].strip():
        raise _Broken(line, "more follows the list")


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _decoded(text: str, at: int, line: int) -> tuple[Any, int]:
    try:
        return DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        column = error.pos - text.rfind("\n", 0, error.pos)
        raise _Broken(line + text.count("\n", at, error.pos), f"column {column}: broken JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise _Broken(line, str(error)) from error


def table(
    path: str | Path, parameter: str, *, separator: str | None = None, quoted: bool | None = None, header: bool = True
) -> Table:
    """The rows of a CSV or TSV file; by its ending where `separator` is None. TSV has no quotes unless `quoted` says so.

    Raises:
        Invalid: no such file or separator, a quote that is never closed, rows with different numbers of cells, a column
            without a name or with another's, no rows.
    """
    between = separator or TABLES.get(Path(path).suffix.lower())
    if between is None or len(between) != 1:
        given = "" if separator is None else f"{separator!r} separates no cells; "
        raise Invalid(parameter, path, f"{given}the ending says neither .csv nor .tsv", "give separator=, one sign")
    text = read_text(path, parameter)
    quotes = between != "\t" if quoted is None else quoted
    rows = list(_quoted(text, between, path, parameter) if quotes else _plain(text, between))
    names = tuple(cell.strip() for cell in rows[0][1]) if header and rows else None
    for line, cells in rows:
        if len(cells) != len(rows[0][1]):
            raise bad(parameter, path, f"line {line}", f"{len(cells)} cells, where the first row has {len(rows[0][1])}")
    if names is not None and (len(set(names)) < len(names) or "" in names):
        raise bad(parameter, path, f"line {rows[0][0]}", f"columns named {list(names)}", "give each a name of its own")
    body = rows[0 if names is None else 1 :]
    if not body:
        raise no_rows(parameter, path)
    return Table(names, [line for line, _ in body], [cells for _, cells in body])


def _plain(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, content.removesuffix("\r").split(separator)


def _quoted(text: str, separator: str, path: str | Path, parameter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    begins = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise bad(parameter, path, f"line {begins}", f"broken table ({error})") from error
        if cells:
            yield begins, cells
        begins = reader.line_num + 1


def table_rows(path: str | Path, parameter: str) -> Iterator[Row]:
    """The rows of a CSV or TSV file with a header, by column."""
    found = table(path, parameter)
    for line, cells in zip(found.lines, found.cells, strict=True):
        yield Row(f"line {line}", dict(zip(found.header or (), cells, strict=True)))


def rows(path: str | Path, parameter: str) -> Iterator[Row]:
    """The rows of a file, told by its ending: a table, or else JSON."""
    return table_rows(path, parameter) if Path(path).suffix.lower() in TABLES else json_rows(path, parameter)
