"""Sweeps, by Hydra's own grammar, sweepers and launchers: every run is its own, and none can end the others."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from testbed.launcher.compose import chosen, one_line, plain
from testbed.launcher.job import Job, run
from testbed.launcher.search import SearchPath
from testbed.words import Refused, Terminated


def sweep(job: Job, overrides: Sequence[str], search: SearchPath) -> int:
    """Run every combination that the overrides name; 0 if all went well, 1 if some did not.

    Raises:
        Refused: one of the combinations cannot be composed, so that none was run.
    """
    named = replace(job, group="sweep-" + hashlib.sha256(" ".join(sorted(overrides)).encode()).hexdigest()[:8])
    folders: list[Path] = []

    def task(config: DictConfig) -> int:
        folders.append(Path(HydraConfig.get().runtime.output_dir).parent)
        return _one(named, config)

    try:
        with initialize_config_dir(config_dir=str(search.own), job_name="testbed", version_base="1.3"):
            GlobalHydra.instance().hydra.multirun(job.verb, task, list(overrides))  # type: ignore[union-attr]
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(one_line(error)) from error
    return _summed_up(folders[0] if folders else None)


def _one(job: Job, config: DictConfig) -> int:
    runtime = HydraConfig.get()
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    overrides = [str(word) for word in runtime.overrides.task]
    print(f"[{runtime.job.num + 1}] {' '.join(overrides)}", file=sys.stderr, flush=True)
    try:
        code = run(replace(job, config=plain(own), choices=chosen(runtime.runtime.choices, overrides)))
    except Refused as refusal:  # a value that must be given is not, in this run
        print(f"error: {refusal}", file=sys.stderr)
        code = refusal.code
    outcome = {"code": code, "overrides": overrides}
    (Path(runtime.runtime.output_dir) / "outcome.json").write_text(json.dumps(outcome))
    if code == 130:
        raise KeyboardInterrupt
    if code == 143:
        raise Terminated("SIGTERM")
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
