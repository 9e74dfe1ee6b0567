"""Tables over finished runs: suites with their standings first, then a row a cell of whatever else was run."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from testbed.api import Invalid
from testbed.export import backdoorbench, latex
from testbed.page import markdown, page
from testbed.pipeline.boards import Board, boards_of, not_counted, unclaimed
from testbed.pipeline.gather import Cell, Gathered, Run, gathered
from testbed.pipeline.rows import COLUMNS, labelled, rows_of, verb_of
from testbed.pipeline.tables import heading_of, tables_of
from testbed.table import Row, print_rows
from testbed.words import nearest

NAMES = ("data", "model", "attack", "rate", "shots", "mix_rate", "method")

Format = Literal["table", "markdown", "csv", "html", "backdoorbench", "latex"]


def report(*, runs: str, paths: Mapping[str, str], measures: list[str] | str | None, format: Format) -> int:
    """Show the runs below `runs`: each suite that was planned there, then a table a verb of all other runs.

    `html` writes a page into `paths.outputs`, and prints where it is; `csv` is one row a run, all verbs together;
    `backdoorbench` is CSV with the columns of that benchmark. What is not counted is named on standard error.

    Raises:
        Invalid: there is no run, or no run has one of the measures asked for.
    """
    root = Path(runs)
    found = gathered(root, COLUMNS)
    boards = boards_of(root, found)
    missing = list(not_counted(found, boards))
    if not found.runs and not boards:
        _tell(missing)
        raise Invalid("runs", runs, "there is no finished run below it", "run testbed train first")
    asked = _checked([measures] if isinstance(measures, str) else measures or [], [run.measures for run in found.runs])
    if format == "html":
        print(_page(Path(paths["outputs"]), boards, found, missing, asked))
    elif format == "csv":
        print(_csv(found.cells, asked), end="", flush=True)
    elif format == "backdoorbench":
        print(_backdoorbench(boards, runs), end="", flush=True)
    else:
        _print(format, boards, unclaimed(found, boards), asked)
    _tell(missing)
    return 0


def _page(outputs: Path, boards: Sequence[Board], found: Gathered, missing: Sequence[str], asked: Sequence[str]) -> Path:
    place = outputs / "report.html"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(page([board.leaderboard for board in boards], found.runs, missing, asked), encoding="utf-8")
    return place


def _backdoorbench(boards: Sequence[Board], runs: str) -> str:
    told = [board.leaderboard for board in boards if board.leaderboard.verb == "train"]
    if not told:
        raise Invalid(
            "format", "backdoorbench", f"no run of train is below {runs}", "run testbed train first, or say format=csv"
        )
    return backdoorbench(told)


SHOWN: Mapping[str, Callable[[str, Sequence[Row]], str]] = {"markdown": markdown, "latex": latex}
BEFORE_A_LINE = {"table": "", "markdown": "- ", "latex": "% "}


def _print(format: Format, boards: Iterable[Board], rest: Gathered, asked: Sequence[str]) -> None:
    suites = [board for board in boards if board.leaderboard.hash]
    for board in suites:
        print("\n".join(BEFORE_A_LINE[format] + line for line in heading_of(board.leaderboard)), end="\n\n")
        _show(format, tables_of(board, asked))
    _show(format, _tables(rest, asked))


def _show(format: Format, tables: Iterable[tuple[str, Sequence[Row]]]) -> None:
    for title, rows in tables:
        print_rows(title, rows) if format == "table" else print(SHOWN[format](title, rows))


def _tables(rest: Gathered, asked: Sequence[str]) -> Iterator[tuple[str, list[Row]]]:
    for verb in COLUMNS:
        if rows := rows_of([cell for cell in rest.cells if verb_of(cell) == verb], asked):
            yield verb, rows


def _tell(lines: Iterable[str]) -> None:
    sys.stdout.flush()
    for line in lines:
        print(line, file=sys.stderr)


def _checked(asked: Sequence[str], found: Iterable[Mapping[str, Any]]) -> list[str]:
    known = list(dict.fromkeys(name for measures in found for name in measures))
    known = known or list(dict.fromkeys(name for columns in COLUMNS.values() for name in columns))
    for name in asked:
        if name not in known:
            raise Invalid("measures", name, "no run found has such a measure", nearest(name, known))
    return list(asked)


def _csv(cells: Sequence[Cell], asked: Collection[str]) -> str:
    """One header; a row a run, with measures as numbers and the n of each; columns are those of all verbs."""
    rows = []
    for verb in COLUMNS:
        for cell, labels, settings in labelled([cell for cell in cells if verb_of(cell) == verb]):
            named = {"method" if name in ("defence", "detector") else name: value for name, value in labels.items()}
            for run in cell.counted:
                trial = {"trial": run.trial} if run.measures.get("targeted") is True else {}
                its = {"seed": run.seed, "draw": run.draw, **trial, "key": run.facts["key"], "cell": run.facts["cell"]}
                rows.append(({"verb": verb, **named}, {**its, "other_settings": settings}, _plain(run, asked or run.measures)))
    first, middle, last = ([name for row in rows for name in row[part]] for part in range(3))
    ordered = sorted(dict.fromkeys(first), key=lambda name: NAMES.index(name) if name in NAMES else len(NAMES))
    columns = list(dict.fromkeys(["verb", *ordered, *middle, *last]))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**names, **its, **measures} for names, its, measures in rows)
    return stream.getvalue()


def _plain(run: Run, names: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        value = run.measures.get(name)
        if not isinstance(value, str):
            whole = int(value) if isinstance(value, bool) else json.dumps(value) if isinstance(value, list | dict) else value
            found |= {name: whole, f"{name}_n": run.result["counts"].get(name)}
    return found
