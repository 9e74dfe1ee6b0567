"""A run's own page as plain data: it is drawn when somebody opens it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from testbed.page.measure import KNOWN, measure_of
from testbed.page.run import Run, anchor

PROPORTION = re.compile(r"(_accuracy|success_rate|refusal_rate(_start|_end)?|compliance(_end)?|utility(_end)?"
                        r"|over_refusal(_end)?|tpr_at_rule|false_alarm_rate)$")  # fmt: skip
"""Measures that are k of n, so that a Wilson interval holds for one model."""


class Lines:
    """Texts that many runs share, each stored once."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def place(self, line: str) -> int:
        return self.known.setdefault(line, len(self.known))

    def places(self, lines: Sequence[str]) -> list[int]:
        return [self.place(line) for line in lines]


def dossiers(runs: Sequence[Run], pictures: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, Any]:
    """`names` of measures with what is known of them, `lines` of text, and `runs` by their anchors."""
    names, lines = Lines(), Lines()
    told = {anchor(run): _told(run, names, lines, pictures.get(run.folder.name, ())) for run in runs}
    return {"names": [_known(name) for name in names.known], "lines": list(lines.known), "runs": told}


def _known(name: str) -> list[Any]:
    measure = measure_of(name)
    share = measure.share if name in KNOWN or measure.better else bool(PROPORTION.search(name))
    return [name, measure.title, int(share), int(bool(PROPORTION.search(name)))]


def _told(run: Run, names: Lines, lines: Lines, pictures: Sequence[tuple[str, str]]) -> dict[str, Any]:
    result, facts = run.result, run.facts
    reasons = result.get("reasons") or {}
    measures = [
        [names.place(name), _plain(value), result["counts"].get(name), reasons.get(name)]
        for name, value in result["measures"].items()
    ]
    path = run.folder / "config.yaml"
    configuration = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    command = shlex.join(str(word) for word in facts.get("command") or ())
    return {
        **{"name": run.folder.name, "status": result["status"], "reason": result.get("reason"), "command": command},
        **{"measures": measures, "config": lines.places(configuration), "facts": _facts(facts, lines)},
        **{"costs": _costs(facts), "pictures": list(pictures)},
    }


def _facts(facts: Mapping[str, Any], lines: Lines) -> list[tuple[str, int]]:
    """Where the run comes from: labels, and the places of their texts."""
    machine = facts.get("machine") or {}
    told = {
        "key": facts["key"],
        "made at (UTC)": facts.get("made_at"),
        "commit": facts.get("commit") or "not from a checkout",
        "device": facts.get("device"),
        "machine": ", ".join(f"{name} {value}" for name, value in machine.items()),
        "versions": ", ".join(f"{name} {value}" for name, value in (facts.get("versions") or {}).items()),
        "suite or sweep": facts.get("group"),
        "reused": ", ".join(facts.get("reused") or ()) or "nothing",
        "made": ", ".join(facts.get("made") or ()) or "nothing",
        "victims": ", ".join(f"{role} {key}" for role, key in (facts.get("victims") or {}).items()),
    }
    return [(label, lines.place(str(value))) for label, value in told.items() if value]


def _costs(facts: Mapping[str, Any]) -> list[list[Any]]:
    """Phase, seconds, peak bytes of the process, peak bytes of the accelerator."""
    seconds, memory = facts.get("seconds") or {}, facts.get("peak_memory") or {}
    return [[phase, time, memory.get(phase), memory.get(f"{phase}_gpu")] for phase, time in seconds.items()]


def _plain(value: Any) -> Any:
    """JSON knows no NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
