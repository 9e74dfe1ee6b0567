"""`testbed list`: what there is to choose from, with one line on each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from testbed.launcher.search import SearchPath, description
from testbed.words import Refused, nearest


def listing(wanted: Sequence[str], search: SearchPath) -> int:
    """Print the options of the wanted groups, or of all."""
    groups = search.groups()
    for group in wanted:
        if group not in groups:
            raise Refused(f"{group}: there is no such group; {nearest(group, groups)}")
    console = Console()
    for group in wanted or groups:
        table = Table(title=group, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, path in sorted(search.options(group).items()):
            table.add_row(f"[bold]{name}[/bold]", description(path))
        console.print(table)
        console.print()
    return 0
