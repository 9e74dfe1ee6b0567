"""A comparison as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.table import Figure, Row, columns_of


def markdown(title: str, rows: Sequence[Row]) -> str:
    """A table with a column for each label, the n, each measure, and the settings that differ."""
    labels = list(dict.fromkeys(name for row in rows for name in row.labels))
    told = [name for name in labels if any(row.labels.get(name) is not None for row in rows)]
    measures = columns_of(rows)[2]
    settings = any(row.settings for row in rows)
    lines = [[*told, "n", *measures, *(["other settings"] if settings else [])]]
    for row in rows:
        names = ["" if row.labels.get(name) is None else str(row.labels[name]) for name in told]
        lines.append([*names, row.n, *(_told(row.figures[name]) for name in measures), *([row.settings] if settings else [])])
    written = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
    return "\n".join([f"**{title}**", "", written[0], "|" + "---|" * len(lines[0]), *written[1:], ""])


def _told(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{figure.text} ({figure.seeds})" if figure.seeds else figure.text
