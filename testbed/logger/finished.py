"""A committed run folder, read back so that a logger can show it."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

ROC_POINTS = 200


@dataclass(frozen=True)
class Finished:
    """A committed run folder, read for showing."""

    folder: Path
    outputs: Path

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """`run.json`: the verb, the name, the key, the names chosen, the sweep, what was reused and made."""
        return _json(self.folder / "run.json")

    @cached_property
    def result(self) -> Mapping[str, Any]:
        """`result.json`: status, reason, measures and counts."""
        return _json(self.folder / "result.json")

    @property
    def identifier(self) -> str:
        """Always the same for the same run, so that it is shown anew instead of twice; a W&B sweep agent names its own runs."""
        agents = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        return agents or f"{self.record['verb']}-{self.record['key']}"

    @property
    def group(self) -> str:
        """The sweep, or the name without its seed: the runs that are repetitions of one another."""
        return self.record.get("group") or re.sub(r"-s\d+(-d\d+)?$", "", self.record["name"])

    @property
    def configuration(self) -> dict[str, Any]:
        """The resolved configuration under `config`, and flat values to filter and group by.

        The parameters of a W&B sweep (`attack`, `seed`, ...) are merged over a run's configuration: hence `attack_name`, and
        the whole under a key of its own. Where this machine keeps its files (`paths`) and the logger are left out.
        """
        config = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8")) or {}
        names = self.record.get("names", {})
        roles = ("attack", "detector" if self.record["verb"] == "detect" else "defence", "data", "model")
        asked = (config.get("attack") or {}).get("poison_rate")
        flat = {f"{role}_name": names.get(role) for role in roles}
        flat |= {"seed": config.get("seed"), "draw": config.get("draw"), "shots": (config.get("attack") or {}).get("shots")}
        flat |= {"poison_rate": self.result["measures"].get("poison_rate_asked", asked)}
        flat |= {key: self.record.get(key) for key in ("verb", "key", "commit", "device", "versions")}
        whole = {key: value for key, value in config.items() if key not in ("paths", "logger")}
        return {key: value for key, value in flat.items() if value is not None} | {"config": whole}

    @property
    def summary(self) -> dict[str, Any]:
        """The measures under the names that they have in `result.json`, the n of each as `n_<name>`, the status, its reason."""
        counts = {f"n_{name}": count for name, count in self.result["counts"].items()}
        said = {"status": self.result["status"], "reason": self.result.get("reason")}
        return {**self.result["measures"], **counts, **{key: value for key, value in said.items() if value is not None}}

    @property
    def history(self) -> list[dict[str, float]]:
        """One row an epoch: `undefended/loss`, `clean_twin/loss`, `defended/validation_accuracy`, ..."""
        rows: dict[float, dict[str, float]] = {}
        for role, curve in self._curves():
            for point in curve:
                values = {f"{role}/{name}": value for name, value in point.items() if name != "epoch"}
                rows.setdefault(point["epoch"], {"epoch": point["epoch"]}).update(values)
        return [rows[epoch] for epoch in sorted(rows)]

    @property
    def trajectory(self) -> list[dict[str, float]]:
        """One row a measured step of a degradation: `trajectory/refusal_rate`, `undefended/utility`, ...; no answers."""
        path = self.folder / "trajectory.csv"
        if not path.is_file():
            return []
        rows: dict[float, dict[str, float]] = {}
        with path.open(newline="", encoding="utf-8") as stream:
            for line in csv.DictReader(stream):
                point = rows.setdefault(float(line["step"]), {"tuning_step": float(line["step"])})
                point[f"{line['victim'] or 'trajectory'}/{line['metric']}"] = float(line["value"])
        return [rows[step] for step in sorted(rows)]

    def _curves(self) -> Iterator[tuple[str, list[dict[str, float]]]]:
        """The learning curve of each victim that `run.json` names, by its role."""
        for role, named in sorted(self.record.get("victims", {}).items()):
            curve = self.outputs / "victim" / named / "curve.json"
            if curve.is_file():
                yield role, _json(curve)

    @property
    def roc_curves(self) -> dict[str, np.ndarray]:
        """For each file of scores of both kinds of examples, float (n, 2): false and true positive rates, thinned to 200."""
        found = {}
        for path in sorted(self.folder.glob("*scores.safetensors")):
            scores = load_file(path)
            suspicious = scores.get("suspicious")
            if suspicious is not None and suspicious.any() and not suspicious.all():
                from sklearn.metrics import roc_curve

                curve = np.stack(roc_curve(suspicious, scores["scores"])[:2], axis=1)
                found[path.stem] = curve[np.unique(np.linspace(0, len(curve) - 1, ROC_POINTS).round().astype(int))]
        return found


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
