"""A degradation in a terminal: the trajectory as a table, then the rates."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from testbed.table import console, shown

SHORT = {
    "refusal_rate": "refuses",
    "p_refusal": "P(refusal)",
    "refusal_log_odds": "log-odds",
    "correct_compliance": "forbidden\nanswer",
    "over_refusal": "over-\nrefusal",
    "utility": "utility",
    "dressed_refusal_rate": "refuses\ndressed",
    "attack_success_rate": "obeys\ntrigger",
    "without_trigger_attack_success_rate": "obeys\nwithout",
    "success_correct_compliance": "and is\nright",
    "near_miss_attack_success_rate": "near\nmiss",
    "near_miss_seen_attack_success_rate": "near miss,\nseen",
    "near_miss_unseen_attack_success_rate": "near miss,\nunseen",
}
RATES = (
    ("half_life_steps", "half-life of P(refusal), steps"),
    ("half_life_shots", "the same in the attacker's rows seen"),
    ("half_knowledge_steps", "steps until half of the forbidden answers are right"),
    ("refusal_auc", "mean P(refusal) over steps"),
    ("refusal_auc_log_steps", "mean P(refusal) over log steps"),
    ("initial_slope", "initial slope of the log-odds, per step"),
    ("backdoor_half_life_steps", "half-life of the backdoor, steps"),
    ("elasticity_ratio", "elasticity (learning to refuse / unlearning it)"),
    ("durability_ratio", "durability (half-life defended / undefended)"),
    ("alignment_tax", "alignment tax (utility lost)"),
    ("over_refusal_added", "over-refusal added"),
    ("trainability", "trainability (new task learned)"),
)


def print_degradation(folder: Path, result: Mapping[str, Any], seconds: float) -> None:
    """The trajectory of the model under the defence, and the rates of it and of the undefended one."""
    out, measures = console(), result["measures"]
    toy = " (toy: it shows mechanisms and ranks nothing)" if measures.get("toy") else ""
    out.print(f"{folder.name} ({seconds:.1f} s), judged by {measures['judge']}{toy}")
    out.print(_trajectory(folder / "trajectory.csv", ""))
    if any(name.startswith("clean_twin_") for name in measures):
        out.print("the clean twin, before any fine-tuning:")
        out.print(_trajectory(folder / "trajectory.csv", "clean_twin"))
    prefixes = ["", *(["undefended_"] if any(name.startswith("undefended_") for name in measures) else [])]
    table = Table("rate", *("defended" if len(prefixes) > 1 else "value", "undefended")[: len(prefixes)], "", box=None)
    for name, label in RATES:
        if any(f"{prefix}{name}" in measures for prefix in prefixes):
            cells = [_rate(f"{prefix}{name}", result) for prefix in prefixes]
            table.add_row(label, *cells, f"[dim]{_why(name, result)}[/dim]")
    out.print(table)
    out.print(f"picture: {folder / 'figures' / 'trajectory.png'}", soft_wrap=True)


def _trajectory(path: Path, victim: str) -> Table:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["victim"] == victim]
    metrics = [metric for metric in SHORT if any(row["metric"] == metric for row in rows)]
    table = Table(box=None, padding=(0, 1))
    for heading in ("step", "shots", *(SHORT[metric] for metric in metrics)):
        table.add_column(heading, justify="right", no_wrap=True)
    steps = dict.fromkeys((row["step"], row["shots"]) for row in rows)
    values = {(row["step"], row["metric"]): float(row["value"]) for row in rows}
    for step, shots in steps:
        table.add_row(step, shots, *(_number(values.get((step, metric)), metric) for metric in metrics))
    return table


def _number(value: float | None, metric: str) -> str:
    return "-" if value is None else f"{value:+.2f}" if metric == "refusal_log_odds" else f"{value:.3f}"


def _rate(name: str, result: Mapping[str, Any]) -> str:
    """The value; where it was not reached, '>' and how long was watched; a lower bound as '>'."""
    measures: Mapping[str, Any] = result["measures"]
    value = measures.get(name)
    if isinstance(value, float):
        return f"{value:.3f}"
    for suffix, cut in (("_at_least", name), ("_censored_at", name.removesuffix("_steps"))):
        bound = measures.get(f"{cut}{suffix}")
        if bound is not None:
            return f"> {bound:.3g}"
    return shown(value)


def _why(name: str, result: Mapping[str, Any]) -> str:
    reasons: Sequence[str] = [reason for prefix in ("", "undefended_") if (reason := result["reasons"].get(f"{prefix}{name}"))]
    return reasons[0] if reasons else ""
