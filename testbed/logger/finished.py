"""A committed run folder, read back so that a logger can show it."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from testbed import plain_yaml
from testbed.logger.privacy import without_paths
from testbed.plan import Request

ROC_POINTS = 200
ROLES = ("attack", "defence", "detector", "judge", "data", "model")
NOTHING = (None, "None", "null")


@dataclass(frozen=True)
class Finished:
    """A committed run folder, read for showing. `asked`: the suites that ask for it, each with what it asks for.

    `disowned`: the suite that made it does not ask for it any more, as its code or data were others.
    """

    folder: Path
    asked: Sequence[tuple[str, Request]] = ()
    disowned: bool = False

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
        """Always the same for the same run, so that it is shown anew instead of twice."""
        return f"{self.record['verb']}-{self.record['key']}"

    @property
    def stale(self) -> bool:
        """Whether no suite asks for it, and the one that made it did: it stands in its group, but in no leaderboard of it."""
        return self.disowned and not self.asked

    @property
    def _maker(self) -> str:
        """The suite or sweep that made it; '' where only others ask for it now."""
        return "" if self.disowned and self.asked else str(self.record.get("group") or "")

    @property
    def group(self) -> str:
        """The suite or sweep that made it, or else the first suite that asks for it, or else its name without its seed."""
        suites = [suite for suite, _ in self.asked]
        return self._maker or next(iter(suites), re.sub(r"-s\d+(-d\d+)?$", "", self.record["name"]))

    @property
    def suites(self) -> tuple[str, ...]:
        """The suite or sweep that made it, and every suite that asks for it."""
        made = [self._maker] if self._maker else []
        return tuple(dict.fromkeys([*made, *(suite for suite, _ in self.asked)]))

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over all that is shown of it."""
        whole = hashlib.sha256(repr((self.asked, self.disowned)).encode())
        for name in ("run.json", "result.json", "config.yaml"):
            whole.update((self.folder / name).read_bytes() + b"\0")
        return whole.hexdigest()[:16]

    @property
    def configuration(self) -> dict[str, Any]:
        """The resolved configuration under `config`, and flat values to filter and group by.

        The parameters of a W&B sweep (`attack`, `seed`, ...) are merged over a run's configuration: hence `attack_name`, and
        the whole under a key of its own. Where this machine keeps its files (`paths`) and the logger are left out, and of other
        paths all but their last part.
        """
        config = plain_yaml.read(self.folder / "config.yaml") or {}
        names = self.record.get("names", {})
        asked = (config.get("attack") or {}).get("poison_rate")
        flat = {f"{role}_name": name for role in ROLES if (name := names.get(role)) not in NOTHING}
        flat |= {"seed": config.get("seed"), "draw": config.get("draw"), "trial": config.get("trial")}
        flat |= {"shots": (config.get("attack") or {}).get("shots")}
        flat |= {"poison_rate": self.result["measures"].get("poison_rate_asked", asked)}
        flat |= {key: self.record.get(key) for key in ("verb", "key", "commit", "device", "versions")}
        whole = {key: value for key, value in config.items() if key not in ("paths", "logger")}
        known = {key: value for key, value in flat.items() if value is not None} | self._place
        shown: dict[str, Any] = without_paths(known | ({"stale": True} if self.stale else {}) | {"config": whole})
        return shown

    @property
    def _place(self) -> dict[str, Any]:
        """Where it stands in the grid of a suite: that of its group if that asks for it, or else of the first that does."""
        request = next((request for suite, request in self.asked if suite == self.group), None)
        request = request or next((request for _, request in self.asked), None)
        suites = {"suites": list(self.suites)} if self.suites else {}
        if request is None:
            return suites
        return {**suites, "world": request.world, "suite_attack": request.attack, "suite_method": request.method}

    @property
    def summary(self) -> dict[str, Any]:
        """The measures under the names that they have in `result.json`, the n of each as `n_<name>`, the status, its reason."""
        counts = {f"n_{name}": count for name, count in self.result["counts"].items()}
        said = {"status": self.result["status"], "reason": self.result.get("reason")}
        told = {**self.result["measures"], **counts, **{key: value for key, value in said.items() if value is not None}}
        shown: dict[str, Any] = without_paths(told)
        return shown

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
            curve = self.folder.parents[1] / "victim" / named / "curve.json"
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
