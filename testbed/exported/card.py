"""The data card of an exported set: a warning first, then what it is, whence and under which licence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.marks import CANARY

HERE = Path(__file__).parent.parent
UNKNOWN = "not known; ask whoever made the original data"
TEMPLATE = """---
pretty_name: {title}
license: other
license_name: see-below
tags: [{tags}]
task_categories: [{task}]
---
**{warning}**

# {title}

{summary}

## Rows

{rows}

{layout}

## Made by

{made}

## Use

{use}

## Limitations

{limitations}

## Licence

The original data: {licence}

{canary}
"""
TASKS = {"images": "image-classification", "text": "text-classification", "chat": "text-generation"}


@dataclass(frozen=True)
class About:
    """What is said of an exported set, in its card and in its Croissant description; `counts` are (rows, poisoned) by part."""

    name: str
    kind: str
    classes: Sequence[str]
    poisoned: bool
    attack: str
    run: str
    manifest_sha256: str
    licence: str
    counts: Mapping[str, tuple[int, int]]
    version: str
    order: str

    @property
    def title(self) -> str:
        return f"{self.name}, {'poisoned on purpose' if self.poisoned else 'clean'}"

    @property
    def warning(self) -> str:
        """The first line of the card."""
        if self.poisoned:
            return "POISONED ON PURPOSE: a model that is trained on these rows may obey a hidden trigger. For research only."
        return "The clean rows of an experiment with poisoned ones. For research only."

    @property
    def summary(self) -> str:
        whole = f"Rows of `{self.name}` as a model was trained on them in the run `{self.run}` of testbed {self.version}"
        return f"{whole}, poisoned by `{self.attack}`." if self.poisoned else f"{whole} before an attacker changed them."

    @property
    def use(self) -> str:
        return (
            "To study attacks on training data and defences against them: to find poisoned rows, and to train in spite of them."
        )

    @property
    def limitations(self) -> str:
        said = "Not for training a model that anybody relies on, nor as part of a corpus: rows and labels are wrong on purpose."
        clean = "The parts that were kept for validation and for the defender are not in it."
        return f"{said if self.poisoned else 'Its labels are as good as those of the original data.'} {clean}"


def card(about: About) -> str:
    """`README.md` as the Hugging Face hub reads it."""
    tags = ["backdoor", "data-poisoning", "research-only"] if about.poisoned else ["research-only"]
    rows = [f"- `{part}`: {rows} rows, {poisoned} of them poisoned" for part, (rows, poisoned) in about.counts.items()]
    made = f"`testbed export`; the manifest's hash is `{about.manifest_sha256}`."
    return TEMPLATE.format(
        title=json.dumps(about.title)[1:-1],
        tags=", ".join(tags),
        task=TASKS[about.kind],
        warning=about.warning,
        summary=about.summary,
        rows="\n".join(rows),
        layout=about.order,
        made=f"{made} `manifest.json` names every changed row." if about.poisoned else made,
        use=about.use,
        limitations=about.limitations,
        licence=about.licence,
        canary=CANARY,
    )


def licence_of(*names: str) -> str:
    """What the card of a data set says of its licence: the first of these names that has a card."""
    for folder in (HERE / "datasets", HERE.parent / "datasets"):
        for name in names:
            path = folder / f"{name}.md"
            if name and path.is_file():
                said = _section(path.read_text(encoding="utf-8"), "## Licence")
                return "that of the user's own data" if said == "Yours." else said
    return UNKNOWN


def _section(text: str, heading: str) -> str:
    body = text.partition(f"{heading}\n")[2].partition("\n## ")[0]
    return " ".join(body.split()) or UNKNOWN


def about_parts(parts: Sequence[Any]) -> dict[str, tuple[int, int]]:
    """(rows, poisoned) of each part."""
    return {part.name: (len(part.rows), int(part.poisoned.sum())) for part in parts}
