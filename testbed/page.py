"""Comparisons for reading elsewhere: a Markdown table, and a page of HTML that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from testbed.table import Figure, Row, columns_of, heading, legend

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #59636e; --line: #d1d9e0; --paper: #fff; --head: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --quiet: #9198a1; --line: #3d444d; --paper: #0d1117; --head: #161b22; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 100rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .25rem; }
p, small, summary { color: var(--quiet); } p { margin: .25rem 0 .75rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .4rem .8rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--head); vertical-align: bottom; }
td b { font-weight: 600; white-space: nowrap; } small { display: block; }
@media (max-width: 700px) {
  thead { display: none; } table, tbody, tr, td { display: block; }
  tr { border: 1px solid var(--line); border-radius: .4rem; margin-bottom: 1rem; padding: .3rem .6rem; }
  td { display: grid; grid-template-columns: 9rem minmax(0, 1fr); gap: .5rem; border: 0; padding: .2rem 0;
    overflow-wrap: anywhere; }
  td::before { content: attr(data-label); color: var(--quiet); } td:empty, td.none { display: none; }
}
"""


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


def page(tables: Mapping[str, Sequence[Row]], missing: Iterable[str]) -> str:
    """A whole HTML document with a table for each title, and what was not counted."""
    lines = [f"<li>{escape(line)}</li>" for line in missing]
    left_out = f"<details><summary>{len(lines)} not counted</summary><ul>{''.join(lines)}</ul></details>" if lines else ""
    parts = [_section(title, rows) for title, rows in tables.items()]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return "\n".join(
        [
            f'<!doctype html>\n<html lang="en"><head>{head}<title>testbed report</title><style>{STYLE}</style></head>',
            *("<body><h1>testbed report</h1>", *parts, left_out, "</body></html>\n"),
        ]
    )


def _section(title: str, rows: Sequence[Row]) -> str:
    shared, labels, measures = columns_of(rows)
    names = [*labels, *([] if "n" in shared else ["n"]), *measures]
    head = "".join(f'<th scope="col">{escape(heading(name))}</th>' for name in names)
    settings = any(row.settings for row in rows)
    body = "\n".join(_row(row, names, measures, settings=settings) for row in rows)
    said = ", ".join(f"{name} = {value}" for name, value in shared.items())
    extra = '<th scope="col">other settings</th>' if settings else ""
    table = f'<div class="wide"><table><thead><tr>{head}{extra}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    return f"<section><h2>{escape(title)}</h2><p>{escape(said)}</p>{table}<p>{escape(legend(rows))}</p></section>"


def _row(row: Row, names: Sequence[str], measures: Sequence[str], *, settings: bool) -> str:
    cells = []
    for name in names:
        value = row.figures[name] if name in measures else row.n if name == "n" else row.labels.get(name)
        cells.append(f'<td data-label="{escape(heading(name))}"{_class(value)}>{_value(value)}</td>')
    if settings:
        each = "<br>".join(escape(word) for word in row.settings.split(", "))
        shown = f"<details><summary>show</summary>{each}</details>" if row.settings else ""
        cells.append(f'<td data-label="other settings">{shown}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _class(value: object) -> str:
    return ' class="none"' if value is None else ""


def _value(value: object) -> str:
    if not isinstance(value, Figure):
        return escape("-" if value is None else str(value))
    seeds = f"<small>{escape(value.seeds)}</small>" if value.seeds else ""
    return f"<div><b>{escape(value.text)}</b>{seeds}</div>"


def _told(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{figure.text} ({figure.seeds})" if figure.seeds else figure.text
