"""How the page of methods calls measures and the cells that were run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from methods.said import number

Cell = Mapping[str, Any]
"""What `measured` keeps of a cell: names, seeds, each measure by seed."""
SHORT = {
    "attack_success_rate": "success",
    "undefended_attack_success_rate": "undefended success",
    "clean_twin_attack_success_rate": "on the clean twin",
    "clean_accuracy": "clean accuracy",
    "clean_twin_clean_accuracy": "of the clean twin",
    "undefended_clean_accuracy": "undefended accuracy",
    "robust_accuracy": "robust accuracy",
    "defence_effectiveness": "DER",
    "certified_accuracy_at_1": "certified accuracy at 1 row",
    "certified_radius_median": "median radius, rows",
    "auroc": "AUROC",
    "tpr_at_rule": "TPR at rule",
    "fpr_at_rule": "FPR at rule",
    "false_alarm_rate": "false alarms on clean twins",
    "queries_auroc": "AUROC of queries",
    "queries_tpr_at_rule": "TPR at rule of queries",
    "queries_fpr_at_rule": "FPR at rule of queries",
    "queries_false_alarm_rate": "false alarms of queries on clean twins",
    "target_flagged": "target flagged",
    "anomaly_index": "anomaly index",
    "flagged": "model flagged",
    "clean_twin_anomaly_index": "clean twin's index",
    "clean_twin_flagged": "clean twin flagged",
    "other_classes_flagged": "other classes flagged",
    "cover_sources_attack_success_rate": "from sources of cover rows",
    "other_sources_attack_success_rate": "from other sources",
}


def short(name: str) -> str:
    """A measure in a word or two."""
    return SHORT.get(name, name.replace("_", " "))


def where(cell: Cell, cells: Sequence[Cell]) -> str:
    """'digits, badnets 5 %'; where these cells have several models, defences or detectors, which one it is as well."""
    names, rate = cell["names"], cell["poison_rate"]
    place = f"{names.get('data', '')}, {names.get('attack', '')}" + (f" {100 * rate:g} %" if rate else "")
    several = [group for group in ("model", "defence", "detector") if len({one["names"].get(group) for one in cells}) > 1]
    return place + "".join(f", {names[group]}" for group in several if group in names)


def under(cell: Cell) -> str:
    """', under fine_pruning' where an attack was measured behind a defence."""
    defence = cell["names"].get("defence", "none")
    return "" if defence == "none" else f", under {defence}"


def signed(value: float) -> str:
    """'+.101', '−.693'."""
    return f"+{number(value)}" if value > 0 else number(value)
