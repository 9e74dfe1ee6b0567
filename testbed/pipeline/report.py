"""Tables over finished runs: a row a cell of the comparison, means over seeds, every seed beside its mean."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from testbed.api import Invalid
from testbed.page import markdown, page
from testbed.pipeline.gather import Cell, Run, gathered
from testbed.statistics import kaplan_meier_median, over_seeds
from testbed.table import Figure, Row, mean_and_interval, number, print_rows
from testbed.words import nearest

COLUMNS = {
    "train": [
        "clean_accuracy",
        "attack_success_rate",
        "robust_accuracy",
        "undefended_attack_success_rate",
        "clean_twin_attack_success_rate",
        "defence_effectiveness",
    ],
    "detect": [
        "auroc",
        "tpr_at_fpr_05",
        "tpr_at_rule",
        "false_alarm_rate",
        "anomaly_index",
        "target_flagged",
        "other_classes_flagged",
        "attack_success_rate",
    ],
    "degrade": [
        "refusal_rate_start",
        "refusal_rate_end",
        "correct_compliance_end",
        "utility_end",
        "over_refusal_end",
        "half_life_steps",
        "half_life_censored_at",
        "refusal_auc_log_steps",
        "initial_slope",
        "durability_ratio",
        "alignment_tax",
        "over_refusal_added",
        "trainability",
    ],
}
CENSORED = {
    "half_life_steps": "half_life_censored_at",
    "half_life_shots": "half_life_shots_censored_at",
    "half_knowledge_steps": "half_knowledge_censored_at",
    "forward_half_life_steps": "forward_half_life_censored_at",
    "backdoor_half_life_steps": "backdoor_half_life_censored_at",
    "durability_ratio": "durability_ratio_at_least",
    "elasticity_ratio": "elasticity_ratio_at_least",
}
"""Measures that are null where a run ended too soon, and the measure, if any, that they are then known to be greater than."""

NAMES = ("data", "model", "attack", "rate", "shots", "mix_rate", "method")


def report(
    *,
    runs: str,
    paths: Mapping[str, str],
    measures: list[str] | str | None,
    format: Literal["table", "markdown", "csv", "html"],
) -> int:
    """Show the runs below `runs`, a table a verb; what is not counted is named on standard error.

    `html` writes a page into `paths.outputs`, and prints where it is; `csv` is one row a run, all verbs together.

    Raises:
        Invalid: there is no run, or no run has one of the measures asked for.
    """
    found = gathered(Path(runs), COLUMNS)
    missing = list(found.not_counted())
    if not found.runs:
        _tell(missing)
        raise Invalid("runs", runs, "there is no finished run below it", "run testbed train first")
    asked = _checked([measures] if isinstance(measures, str) else measures or [], [run.measures for run in found.runs])
    if format == "csv":
        print(_csv(found.cells, asked), end="", flush=True)
        _tell(missing)
        return 0
    tables = {verb: rows for verb in COLUMNS if (rows := _rows([cell for cell in found.cells if _verb(cell) == verb], asked))}
    if format == "html":
        place = Path(paths["outputs"]) / "report.html"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(page(tables, missing), encoding="utf-8")
        _tell(missing)
        print(place)
        return 0
    for verb, rows in tables.items():
        print_rows(verb, rows) if format == "table" else print(markdown(verb, rows))
    _tell(missing)
    return 0


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


def _verb(cell: Cell) -> str:
    return str(cell.first.facts["verb"])


def _rows(cells: Sequence[Cell], asked: Sequence[str]) -> list[Row]:
    """A row a cell, in order of its labels; none where no run of this verb has a measure that was asked for."""
    here = {name for cell in cells for run in cell.counted for name in run.measures}
    columns = (
        [name for name in asked if name in here] if asked else [name for cell in cells[:1] for name in COLUMNS[_verb(cell)]]
    )
    rows = []
    for cell, labels, settings in _labelled(cells):
        figures = {name: _figure(cell, name) for name in columns}
        rows.append(Row(labels, _count(cell), figures, settings))
    return rows if columns else []


def _count(cell: Cell) -> str:
    runs, seeds = len(cell.counted), len(cell.seeds)
    return str(seeds) if runs == seeds else f"{seeds} ({runs} runs)"


def _labelled(cells: Sequence[Cell]) -> list[tuple[Cell, dict[str, Any], str]]:
    """Each cell with its labels, and with the settings in which it differs from those of equal labels; sorted."""
    labels = [_labels(cell) for cell in cells]
    found = []
    for cell, its in zip(cells, labels, strict=True):
        like = [other.first.settings for other, others in zip(cells, labels, strict=True) if others == its]
        found.append((cell, its, _difference(cell.first.settings, like)))
    return sorted(found, key=lambda entry: ([_rank(value) for value in entry[1].values()], _natural(entry[2])))


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers by size and before words."""
    known = isinstance(value, int | float)
    return not known, float(value) if known else 0.0, str(value)


def _natural(words: str) -> list[Any]:
    """Words to sort by, with the whole numbers in them by size."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", words)]


def _labels(cell: Cell) -> dict[str, Any]:
    """What names a cell: the options chosen, how much of it is the attacker's, and every measure that is a word."""
    run = cell.first
    names, settings, verb = run.facts["names"], run.settings, run.facts["verb"]
    data = names.get("data")
    toy = run.measures.get("toy") is True
    labels = {"data": f"{data} (toy)" if toy else data, "model": names.get("model"), "attack": names.get("attack")}
    dose = {"shots": "shots", "mix_rate": "mix_rate"} if verb == "degrade" else {"rate": "poison_rate"}
    labels |= {name: None if labels["attack"] == "none" else settings.get(f"attack.{key}") for name, key in dose.items()}
    method = "detector" if verb == "detect" else "defence"
    chosen = names.get(method, run.facts["name"])
    if (method == "defence" and "${detector}" in str(run.config.get("defence", ""))) or chosen in ("filter", "reject"):
        chosen = f"{chosen}({names.get('detector')})"
    return {**labels, method: chosen, **_words(cell.counted)}


def _words(runs: Sequence[Run]) -> dict[str, str]:
    names = {name: None for run in runs for name, value in run.measures.items() if isinstance(value, str)}
    return {name: "/".join(sorted({str(run.measures.get(name)) for run in runs})) for name in names}


def _difference(mine: Mapping[str, Any], like: Sequence[Mapping[str, Any]]) -> str:
    told = []
    for name in sorted({name for settings in like for name in settings}):
        values = {str(settings.get(name)) for settings in like}
        brief = {value: _last_part(value) for value in values}
        if len(values) > 1:
            value = str(mine.get(name))
            told.append(f"{name}={brief[value] if len(set(brief.values())) == len(values) else value}")
    return ", ".join(told)


def _last_part(value: str) -> str:
    """Of a path, its last part."""
    return Path(value).name or value if "/" in value and not set(value) & set("[{, ") else value


def _figure(cell: Cell, name: str) -> Figure | None:
    """What a row says of a measure; None where no run has it, or where it is a word and so a label."""
    values = [[run.measures.get(name) for run in runs] for runs in cell.seeds]
    every = [value for draws in values for value in draws]
    if None in every and name.removeprefix("undefended_") in CENSORED:
        return _censored(cell, name)
    # Draws of one seed attack the same model: they are no further models, and count as one.
    known = [fmean(numbers) for draws in values if (numbers := [value for value in draws if isinstance(value, int | float)])]
    if not known:
        others = [json.dumps(value) for value in every if value is not None and not isinstance(value, str)]
        return Figure(" ".join(others)) if others else None
    each = " ".join("/".join(map(number, draws)) for draws in values) if len(every) > 1 else ""
    partly = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    if len(values) == 1 < len(every) and len(known) == 1:  # draws tell about measurement, not about other models
        draws = [float(value) for value in every if isinstance(value, int | float)]
        return Figure(f"{mean_and_interval(over_seeds(draws))} this model only", each)
    return Figure(mean_and_interval(over_seeds(known)) + partly, each)


def _censored(cell: Cell, name: str) -> Figure | None:
    """Numbers of which some are only known to be greater than a limit: their median, never a mean of the others."""
    prefix = "undefended_" if name.startswith("undefended_") else ""
    limit = prefix + CENSORED[name.removeprefix(prefix)]
    pairs = [[(run.measures.get(name), run.measures.get(limit)) for run in runs] for runs in cell.seeds]
    flat = [pair for draws in pairs for pair in draws]
    if all(pair == (None, None) for pair in flat):
        return None
    each = " ".join("/".join(_bounded(*pair) for pair in draws) for draws in pairs)
    if len(flat) == 1 or (None, None) in flat:
        return Figure(each)
    # Draws attack one model, and so give one time; the median is then one over models.
    models = [_median(draws) for draws in pairs]
    only = " this model only" if len(models) == 1 else ""
    return Figure(f"KM median {_bounded(*_median(models))}{only}", each)


def _median(pairs: Sequence[tuple[float | None, float | None]]) -> tuple[float | None, float | None]:
    """The Kaplan-Meier median of times of which some are only known to be greater than a bound; or else that it is greater."""
    times = [bound if value is None else value for value, bound in pairs]
    median = kaplan_meier_median(times, [value is not None for value, _ in pairs])
    return (median, None) if median is not None else (None, max(times))


def _bounded(value: float | None, bound: float | None) -> str:
    return f">{number(bound)}" if value is None and bound is not None else number(value)


def _csv(cells: Sequence[Cell], asked: Collection[str]) -> str:
    """One header; a row a run, with measures as numbers and the n of each; columns are those of all verbs."""
    rows = []
    for verb in COLUMNS:
        for cell, labels, settings in _labelled([cell for cell in cells if _verb(cell) == verb]):
            named = {"method" if name in ("defence", "detector") else name: value for name, value in labels.items()}
            for run in cell.counted:
                its = {"seed": run.seed, "draw": run.draw, "key": run.facts["key"], "cell": run.facts["cell"]}
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
