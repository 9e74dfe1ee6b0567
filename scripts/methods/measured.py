"""The runs behind a header: its own command, made or found finished, and what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from methods.header import Header
from methods.said import folders_of

PHASES = {"attack": "poison", "defence": "defend", "detector": "detect"}
"""The phase of a run that is a method's own work."""
OTHER_SOURCES = ("cover_sources_attack_success_rate", "other_sources_attack_success_rate")
MEASURES = {
    "attack": (
        *("undefended_attack_success_rate", "attack_success_rate", "clean_twin_attack_success_rate"),
        *("clean_accuracy", "clean_twin_clean_accuracy"),
    ),
    "defence": ("undefended_attack_success_rate", "attack_success_rate", "undefended_clean_accuracy", "clean_accuracy"),
    "detector": ("auroc", "tpr_at_rule", "fpr_at_rule", "false_alarm_rate", "target_flagged", "anomaly_index", "flagged"),
}
"""What the page shows of each group; of model detectors also the clean twin's."""
MORE = {
    "defence": ("robust_accuracy", "defence_effectiveness", "certified_accuracy_at_1", "certified_radius_median"),
    "detector": (
        *("queries_auroc", "queries_tpr_at_rule", "queries_fpr_at_rule", "queries_false_alarm_rate"),
        *("clean_twin_anomaly_index", "clean_twin_flagged", "other_classes_flagged"),
    ),
    "attack": ("robust_accuracy", *OTHER_SOURCES, "auroc", "tpr_at_rule"),
}
SEED = re.compile(r"-s(\d+)(?:-[a-z]\d+)*-[0-9a-f]{16}$")


def measured(header: Header, outputs: Path) -> list[dict[str, Any]]:
    """A record for each cell of the command: names, seeds, each measure by seed, the seconds of the method's own phase."""
    cells: dict[str, list[Path]] = {}
    for folder in folders_of(header.command, outputs):
        cells.setdefault(json.loads((folder / "run.json").read_text())["cell"], []).append(folder)
    return [_record(header, sorted(folders, key=_seed)) for folders in cells.values()]


def _record(header: Header, folders: Sequence[Path]) -> dict[str, Any]:
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    facts = [json.loads((folder / "run.json").read_text()) for folder in folders]
    phase = PHASES[header.group]
    seconds = [fact["seconds"][phase] for fact in facts if phase in fact.get("seconds", {})]
    names = [*MEASURES[header.group], *MORE[header.group]]
    if header.group == "attack" and facts[0]["names"].get("defence", "none") == "none":
        names.remove("undefended_attack_success_rate")  # the same number
    found = {name: [result["measures"].get(name) for result in results] for name in names}
    known = {name: values for name, values in found.items() if all(isinstance(value, int | float) for value in values)}
    return {
        "names": facts[0]["names"],
        "poison_rate": results[0]["measures"].get("poison_rate_asked"),
        "seeds": [_seed(folder) for folder in folders],
        **({"targeted": True} if results[0]["measures"].get("targeted") is True else {}),
        "status": sorted({result["status"] for result in results}),
        "measures": known,
        "seconds": round(fmean(seconds), 2) if seconds else None,
    }


def _seed(folder: Path) -> int:
    found = SEED.search(folder.name)
    return int(found[1]) if found else 0
