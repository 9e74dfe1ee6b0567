"""Sweeps, by Hydra's own grammar, sweepers and launchers: every run is its own, and none can end the others."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from testbed.launcher.compose import chosen, one_line, plain
from testbed.launcher.interruption import RESUME, code_of, how, stop_if_asked
from testbed.launcher.job import Job, run
from testbed.launcher.search import SearchPath
from testbed.words import Refused, Terminated


def sweep(job: Job, overrides: Sequence[str], search: SearchPath) -> int:
    """Run every combination that the overrides name; 0 if all went well, 1 if some did not.

    Raises:
        Refused: one of the combinations cannot be composed, so that none was run; the sweep's files cannot be written.
    """
    named = replace(job, group="sweep-" + hashlib.sha256(" ".join(sorted(overrides)).encode()).hexdigest()[:8])
    folders: list[Path] = []
    whole = ""

    def task(config: DictConfig) -> int:
        folders.append(Path(HydraConfig.get().runtime.output_dir).parent)
        return _one(named, config)

    try:
        with initialize_config_dir(config_dir=str(search.own), job_name="testbed", version_base="1.3"):
            whole = _number(overrides)
            GlobalHydra.instance().hydra.multirun(job.verb, task, list(overrides))  # type: ignore[union-attr]
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(one_line(error)) from error
    except (KeyboardInterrupt, Terminated) as end:
        done = sum(outcome["code"] == 0 for outcome in _outcomes(folders))
        print(f"{how(end)}: {done}{whole} done; {RESUME}", file=sys.stderr, flush=True)
        return code_of(end)
    except OSError as error:  # of the sweep's own files: what a run meets, it records or says itself
        advice = "say paths.outputs= to put results elsewhere"
        raise Refused(f"paths.outputs: cannot write {error.filename} ({error.strerror}); {advice}", 4) from error
    return _summed_up(_outcomes(folders))


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
    stop_if_asked()
    if code == 130:  # Ctrl-C was no signal, but raised
        raise KeyboardInterrupt
    if code == 143:
        raise Terminated("SIGTERM")
    return code


def _number(overrides: Sequence[str]) -> str:
    """'/12', where the overrides name twelve combinations; nothing where only a sweeper can tell."""
    given = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    sweeps = [override for override in given if override.is_sweep_override()]
    if not all(override.is_discrete_sweep() for override in sweeps):
        return ""
    return f"/{prod(len(list(override.sweep_string_iterator())) for override in sweeps)}"


def _outcomes(folders: Sequence[Path]) -> list[Any]:
    """How the runs of this sweep that have ended did so."""
    return [json.loads(path.read_text()) for path in sorted(folders[0].glob("*/outcome.json"))] if folders else []


def _summed_up(outcomes: Sequence[Any]) -> int:
    bad = [outcome for outcome in outcomes if outcome["code"]]
    print(f"{len(outcomes)} runs: {len(outcomes) - len(bad)} done, {len(bad)} not", file=sys.stderr)
    for outcome in bad:
        print(f"  not done (exit code {outcome['code']}): {' '.join(outcome['overrides'])}", file=sys.stderr)
    if not bad:
        return 0
    return bad[0]["code"] if len(bad) == len(outcomes) and len({outcome["code"] for outcome in bad}) == 1 else 1
