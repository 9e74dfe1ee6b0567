"""Numbers as tables in a terminal."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from testbed.statistics import Interval

PREFIXES = {"": "victim", "undefended_": "undefended", "clean_twin_": "clean twin"}
SHORT = {
    "clean_accuracy": "clean accuracy",
    "attack_success_rate": "attack success",
    "robust_accuracy": "robust accuracy",
    "undefended_attack_success_rate": "success undefended",
    "clean_twin_attack_success_rate": "success on clean twin",
    "defence_effectiveness": "DER",
    "tpr_at_fpr_05": "TPR at 5 % FPR",
    "tpr_at_rule": "TPR at rule",
    "false_alarm_rate": "false alarms",
    "anomaly_index": "anomaly index",
    "auroc": "AUROC",
    "refusal_rate_start": "refusal at start",
    "refusal_rate_end": "refusal at end",
    "correct_compliance_end": "correct compliance",
    "utility_end": "utility",
    "over_refusal_end": "over-refusal",
    "half_life_steps": "half-life (steps)",
    "half_life_censored_at": "censored at (steps)",
    "refusal_auc_log_steps": "refusal AUC (log steps)",
}
HEADLINE = (
    "clean_accuracy",
    "attack_success_rate",
    "robust_accuracy",
    "defence_effectiveness",
    "auroc",
    "tpr_at_fpr_05",
    "false_alarm_rate",
    "anomaly_index",
    "flagged_classes",
    "refusal_rate_start",
    "refusal_rate_end",
    "correct_compliance_end",
    "half_life_steps",
    "half_life_censored_at",
    "durability_ratio",
    "alignment_tax",
    "trainability",
)


def console() -> Console:
    """As wide as the terminal; where there is none, wide enough for a table."""
    return Console(width=None if sys.stdout.isatty() else 130, highlight=False)


def print_run(folder: Path, result: Mapping[str, Any], seconds: float) -> None:
    """What one run measured: rows are measures, columns the defended victim, the undefended one and the clean twin."""
    out = console()
    if result["status"] != "done":
        out.print(f"{result['status']}: {result['reason']}", soft_wrap=True)
        return
    measures, counts = result["measures"], result["counts"]
    names = [name for name in measures if not name.startswith(("undefended_", "clean_twin_"))]
    used = [prefix for prefix in PREFIXES if not prefix or any(name.startswith(prefix) for name in measures)]
    table = Table("measure", *(PREFIXES[prefix] for prefix in used), "n", box=None)
    for name in names:
        row = [shown(measures.get(prefix + name, "")) for prefix in used]
        table.add_row(name, *row, str(counts.get(name, "")))
    toy = " (toy: it shows mechanisms and ranks nothing)" if measures.get("toy") else ""
    out.print(f"{folder.name} ({seconds:.1f} s){toy}")
    out.print(table)


def print_line(result: Mapping[str, Any], seconds: float) -> None:
    """The same in one line, for sweeps."""
    measures = result["measures"]
    known = [
        f"{SHORT.get(name, name).replace('_', ' ')} {shown(measures[name])}"
        for name in HEADLINE
        if measures.get(name) is not None
    ]
    told = ", ".join(known) if result["status"] == "done" else f"{result['status']}: {result['reason']}"
    print(f"    {told} ({seconds:.1f} s)")


def shown(value: Any) -> str:
    """A number to four places, '-' for what is undefined."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


class Figure(NamedTuple):
    """What a row says of one measure: the mean with its interval, and every seed where there are several."""

    text: str
    seeds: str = ""


OF_TRIALS = re.compile(r"(\d+ of|over) \d+ trials? \[")


@dataclass(frozen=True)
class Row:
    """A row of a comparison: what names it, how many runs it rests on, its figures, and settings that no label tells."""

    labels: Mapping[str, Any]
    n: str
    figures: Mapping[str, Figure | None]
    settings: str = ""


def of_trials(outcomes: Collection[float], *, brief: bool = False) -> str:
    """'12 of 20 trials' ('12/20' in brief) where each ended in 1 or 0; of rates, how many there are ('0.531' their mean)."""
    n, hits = len(outcomes), sum(outcomes)
    if not set(outcomes) <= {0.0, 1.0}:
        return number(hits / n) if brief else f"{n} trial{'s' if n > 1 else ''}"
    return f"{hits:.0f}/{n}" if brief else f"{hits:.0f} of {n} trial{'s' if n > 1 else ''}"


def trials_and_interval(outcomes: Collection[float], interval: Interval) -> str:
    """'12 of 20 trials [0.387, 0.781]'; of rates, '0.531 over 20 trials [0.321, 0.731]'."""
    told = of_trials(outcomes)
    known = "" if " of " in told else f"{number(interval.mean)} over "
    return f"{known}{told} [{interval.low:.3f}, {interval.high:.3f}]"


def heading(name: str) -> str:
    """The name of a measure or of a label, for people."""
    return SHORT.get(name, name.replace("_", " "))


def number(value: float | None) -> str:
    """Four digits or so: a whole number as it is, '-' for what is undefined."""
    if value is None:
        return "-"
    return str(int(value)) if isinstance(value, int) else f"{value:{_style(value)}}"


def mean_and_interval(interval: Interval) -> str:
    """'mean ± half of the interval', in the decimals of the mean."""
    if interval.high is None:
        return number(interval.mean)
    half = interval.high - interval.mean
    style = _style(max(abs(interval.mean), half))
    return f"{interval.mean:{style}} ± {half:{style}}"


def _style(value: float) -> str:
    size = abs(value)
    return ".1e" if 0 < size < 0.001 else ".3f" if size < 10 else ".2f" if size < 100 else ".1f"


def legend(rows: Sequence[Row]) -> str:
    """What the signs in these rows mean; '' where there are none."""
    said = " ".join(f"{figure.text} {figure.seeds}" for row in rows for figure in row.figures.values() if figure)
    said = OF_TRIALS.sub("trials [", said)
    signs = {
        "±": "± Student's 95 % interval over seeds, each seed beneath; too narrow where some seeds fail and others do not"
        ' (over draws of the attack where it says "this model only", over its trials where it says "this seed only")',
        "trials [": "trials [low, high]: Wilson's 95 % interval over trials, each with a target of its own; those of one seed"
        " share the victim's initialisation and the order of its rows",
        "KM": "KM Kaplan-Meier, as some seeds were not watched for long enough",
        ">": "> not reached when the run ended",
        "*": "* p below 0.05 by sign flips over at least 6 pairs (a test of symmetry about 0, not of the mean alone), after"
        " Holm's correction over the suite's families",
        " of ": "(k of n) the mean of the k seeds that have it",
        " cells": "k of n cells: so many cells are whole; the mean and the worst case compare with none that rest on others",
    }
    return "; ".join(meaning for sign, meaning in signs.items() if sign in said)


def columns_of(rows: Sequence[Row]) -> tuple[dict[str, str], list[str], list[str]]:
    """Labels that all rows share, with their values; the names of the other labels; the names of the measures that any has."""
    names = list(dict.fromkeys(name for row in rows for name in row.labels))
    told = [name for name in names if any(row.labels.get(name) is not None for row in rows)]
    method = {"defence", "detector"}  # every row must be called something
    alike = [name for name in told if name not in method and len({str(row.labels.get(name)) for row in rows}) == 1]
    shared = {heading(name): str(rows[0].labels[name]) for name in alike}
    if len({row.n for row in rows}) == 1:
        shared["n"] = rows[0].n
    measures = [name for name in rows[0].figures if any(row.figures[name] for row in rows)]
    return shared, [name for name in told if name not in alike], measures


def print_rows(title: str, rows: Sequence[Row]) -> None:
    """A table as wide as there is room for, or, where it cannot fit, one block a row; settings that differ stand beneath."""
    out = Console(width=_width(), highlight=False)
    shared, labels, measures = columns_of(rows)
    differing = dict.fromkeys(row.settings for row in rows if row.settings)
    notes = {settings: f"{_letter(place)})" for place, settings in enumerate(differing)}
    out.print(Text.assemble((title, "bold"), "  ", ", ".join(f"{name} = {value}" for name, value in shared.items())))
    tables = (_table(rows, labels, measures, notes, room=room, count="n" not in shared) for room in (40, 20, 1))
    fitting = next((table for table in tables if _natural_width(out, table) <= out.width), None)
    if fitting is None:
        for row in rows:
            out.print()
            _print_block(out, row, labels, measures, count="n" not in shared)
    else:
        out.print(fitting)
        for settings, letter in notes.items():
            _print_hanging(out, f"{letter} {settings}", len(letter) + 1)
    if legend(rows):
        _print_hanging(out, legend(rows), 0, "dim")
    out.print()


def _width() -> int | None:
    """As the terminal, or as COLUMNS says; where there is neither, wide enough for a table."""
    return None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit() else 130


def _natural_width(out: Console, table: Table) -> int:
    return out.measure(table, options=out.options.update(width=10_000)).maximum


def _table(
    rows: Sequence[Row], labels: Sequence[str], measures: Sequence[str], notes: Mapping[str, str], *, room: int, count: bool
) -> Table:
    """Every column as wide as what is in it, with at most `room` characters of seeds in a line where the mean is shorter."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for name in [*labels, *(["n"] if count else []), *measures]:
        cells = [_cell(row, name, measures, room) for row in rows]
        width = max(len(line) for cell in cells for line in cell.plain.splitlines() or [""])
        table.add_column(_folded(heading(name), width), no_wrap=True, min_width=width)
    if notes:
        table.add_column("", no_wrap=True)
    for row in rows:
        cells = [_cell(row, name, measures, room) for name in [*labels, *(["n"] if count else []), *measures]]
        table.add_row(*cells, *([notes.get(row.settings, "")] if notes else []))
    return table


def _cell(row: Row, name: str, measures: Sequence[str], room: int) -> Text:
    if name not in measures:
        value = row.n if name == "n" else row.labels.get(name)
        return Text("-" if value is None else str(value))
    figure = row.figures[name]
    if figure is None:
        return Text("-")
    seeds = _folded(figure.seeds, max(room, len(figure.text)))
    return Text.assemble(figure.text, ("\n" + seeds if seeds else "", "dim"))


def _folded(words: str, width: int) -> str:
    return "\n".join(textwrap.wrap(words, max(width, 1), break_long_words=False, break_on_hyphens=False))


def _print_block(out: Console, row: Row, labels: Sequence[str], measures: Sequence[str], *, count: bool) -> None:
    told = [f"{heading(name)} = {row.labels[name]}" for name in labels if row.labels.get(name) is not None]
    out.print(Text(", ".join([*told, *([f"n = {row.n}"] if count else [])]), style="bold"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(max_width=max(out.width // 3, 12))
    grid.add_column(no_wrap=True)
    grid.add_column(style="dim", overflow="fold")
    for name in measures:
        figure = row.figures[name]
        if figure is not None:
            grid.add_row(f"  {heading(name)}", Text(figure.text), Text(figure.seeds))
    out.print(grid)
    if row.settings:
        _print_hanging(out, row.settings, 0)


def _print_hanging(out: Console, words: str, indent: int, style: str = "") -> None:
    out.print(Text(textwrap.fill(words, out.width, initial_indent="  ", subsequent_indent=" " * (2 + indent)), style=style))


def _letter(place: int) -> str:
    return ascii_lowercase[place] if place < len(ascii_lowercase) else str(place + 1)


def print_intervals(title: str, measured: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """Each measure computed again, its interval over the test rows, and what the run had recorded."""
    table = Table("measure", "now", "95 % interval", "n", "recorded", box=None)
    for name, value in sorted(measured.items()):
        known = isinstance(value, tuple)
        bounds, n = (f"[{value.low:.4f}, {value.high:.4f}]", str(value.n)) if known else ("", "")
        table.add_row(name, shown(value.mean if known else value), bounds, n, shown(recorded.get(name)))
    console().print(f"[bold]{title}[/bold]")
    console().print(table)
