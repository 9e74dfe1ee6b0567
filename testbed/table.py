"""Numbers as tables in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PREFIXES = {"": "victim", "undefended_": "undefended", "clean_twin_": "clean twin"}


def print_run(folder: Path, result: Mapping[str, Any], seconds: float) -> None:
    """What one run measured: rows are measures, columns the defended victim, the undefended one and the clean twin."""
    console = Console()
    if result["status"] != "done":
        console.print(f"{result['status']}: {result['reason']}", highlight=False)
        return
    measures, counts = result["measures"], result["counts"]
    names = [name for name in measures if not name.startswith(("undefended_", "clean_twin_"))]
    used = [prefix for prefix in PREFIXES if not prefix or any(name.startswith(prefix) for name in measures)]
    table = Table("measure", *(PREFIXES[prefix] for prefix in used), "n", title=folder.name, title_justify="left", box=None)
    for name in names:
        row = [shown(measures.get(prefix + name, "")) for prefix in used]
        table.add_row(name, *row, str(counts.get(name, "")))
    console.print(table)
    console.print(f"{seconds:.1f} s", highlight=False)


def shown(value: Any) -> str:
    """A number to four places, '-' for what is undefined."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
