"""Run folders as a run leaves them, without the run: what `report` reads and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from testbed.files import write_json
from testbed.identity import key
from testbed.record import SCHEMA

NAMES = {"data": "digits", "model": "small_cnn", "attack": "badnets", "defence": "none"}


def leave(
    root: Path,
    *,
    verb: str = "train",
    seed: int = 0,
    measures: dict[str, Any] | None = None,
    names: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
    folder: str = "",
    status: str = "done",
    result: dict[str, Any] | None = None,
    **facts: Any,
) -> Path:
    """A run of these names, settings and measures; `facts` and `result` replace what run.json and result.json say."""
    names, settings = {**NAMES, **(names or {})}, settings or {}
    cell = key(verb=verb, names=names, settings=settings)
    run = {
        **{"schema": SCHEMA, "made_at": "2026-01-01T00:00:00.000000+00:00", "verb": verb, "names": names, "cell": cell},
        **{"name": f"run-s{seed}", "settings": key(cell=cell, seed=seed), "contents": {"train": "1"}, "sources": {}},
        **{name: value for name, value in facts.items() if value is not None},
    }
    run.setdefault("key", key(settings=run["settings"], contents=run["contents"], sources=run["sources"]))
    place = root / verb / (folder or f"{run['name']}-{run['key']}")
    place.mkdir(parents=True)
    write_json(place / "run.json", {name: value for name, value in run.items() if value != "absent"})
    counts = {name: 100 for name, value in (measures or {}).items() if isinstance(value, float)}
    said = {"status": status, "reason": None if status == "done" else "as told", "measures": measures or {}, "counts": counts}
    write_json(place / "result.json", {**said, **(result or {})})
    (place / "config.yaml").write_text(yaml.safe_dump({**settings, "seed": seed}))
    return place
