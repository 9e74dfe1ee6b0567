"""Numbers as tables in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

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
    out.print(f"{folder.name} ({seconds:.1f} s)")
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


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows whose numbers are (interval, seeds): the mean with its interval, and beneath it every seed."""
    every = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in every if any(row.get(name) is not None for row in rows)]
    alike = {name for name in names if len(rows) > 1 and len({str(row.get(name)) for row in rows}) == 1}
    shared = {name: rows[0][name] for name in names if name in alike and not isinstance(rows[0].get(name), tuple)}
    columns = [name for name in names if name not in shared]
    table = Table()
    for name in columns:
        numbers = any(isinstance(row.get(name), tuple) for row in rows)
        table.add_column(SHORT.get(name, name.replace("_", " ")), no_wrap=not numbers)
    for row in rows:
        table.add_row(*(_seeds(row.get(name)) for name in columns))
    console().print(": ".join([f"[bold]{title}[/bold]", ", ".join(f"{name} = {value}" for name, value in shared.items())]))
    console().print(table)


def print_intervals(title: str, measured: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """Each measure computed again, its interval over the test rows, and what the run had recorded."""
    table = Table("measure", "now", "95 % interval", "n", "recorded", box=None)
    for name, value in sorted(measured.items()):
        known = isinstance(value, tuple)
        bounds, n = (f"[{value.low:.4f}, {value.high:.4f}]", str(value.n)) if known else ("", "")
        table.add_row(name, shown(value.mean if known else value), bounds, n, shown(recorded.get(name)))
    console().print(f"[bold]{title}[/bold]")
    console().print(table)


def _seeds(value: Any) -> str:
    if not isinstance(value, tuple):
        return "-" if value is None else str(value)
    interval, seeds = value
    if interval.low is None:
        return f"{interval.mean:.3f}"
    each = " ".join("-" if seed is None else f"{seed:.3f}" for seed in seeds)
    return f"{interval.mean:.3f} ± {interval.high - interval.mean:.3f}\n[dim]{each}[/dim]"
