"""Sweeps, by Hydra's own grammar, sweepers and launchers: every run is its own, and none can end the others."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from testbed.launcher.compose import plain
from testbed.launcher.job import Job, run
from testbed.launcher.search import SearchPath


def sweep(
    verb: str, overrides: Sequence[str], search: SearchPath, command: Sequence[str], permitted: Sequence[str], debug: bool
) -> int:
    """Run every combination that the overrides name; 0 if all went well, 1 if some failed, 2 if all that failed were refused."""
    group = "sweep-" + hashlib.sha256(" ".join(sorted(overrides)).encode()).hexdigest()[:8]

    def task(config: DictConfig) -> int:
        return _one(verb, config, command, permitted, group, debug)

    folder, before = None, sys.argv
    sys.argv = ["testbed", "--multirun", *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(search.own), config_name=verb)(task)()
        folder = Path(_last["folder"]).parent if _last else None
    finally:
        sys.argv = before
    return _summed_up(folder)


_last: dict[str, str] = {}


def _one(verb: str, config: DictConfig, command: Sequence[str], permitted: Sequence[str], group: str, debug: bool) -> int:
    runtime = HydraConfig.get()
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    choices = {name: str(choice) for name, choice in runtime.runtime.choices.items() if not name.startswith("hydra/")}
    print(f"[{runtime.job.num + 1}] {' '.join(runtime.overrides.task)}", file=sys.stderr, flush=True)
    code = run(Job(verb, plain(own), choices, command, permitted, group, debug))
    _last["folder"] = runtime.runtime.output_dir
    outcome = {"code": code, "overrides": list(runtime.overrides.task)}
    (Path(runtime.runtime.output_dir) / "outcome.json").write_text(json.dumps(outcome))
    if code == 130:
        raise KeyboardInterrupt
    return code


def _summed_up(folder: Path | None) -> int:
    outcomes: list[Any] = [json.loads(path.read_text()) for path in sorted(folder.glob("*/outcome.json"))] if folder else []
    bad = [outcome for outcome in outcomes if outcome["code"]]
    print(f"{len(outcomes)} runs: {len(outcomes) - len(bad)} done, {len(bad)} not", file=sys.stderr)
    for outcome in bad:
        print(f"  not done (exit code {outcome['code']}): {' '.join(outcome['overrides'])}", file=sys.stderr)
    if not bad:
        return 0
    return bad[0]["code"] if len(bad) == len(outcomes) and len({outcome["code"] for outcome in bad}) == 1 else 1
