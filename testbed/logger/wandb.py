"""Weights & Biases as a view of finished runs: rebuilt from the run folder, offline unless told, and never in a run's way."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from testbed.api import Invalid
from testbed.logger.finished import Finished
from testbed.logger.upload import absent, environment, folders, last_line, upload

LEAST_FREE = 16 * 2**20
"""Bytes: the client does not say when the disk is full, it only writes less."""
STATE = {"done": 0, "skipped": 0}
"""Exit codes that W&B shows as finished; anything else is shown as failed."""


@dataclass(frozen=True)
class WandbLogger:
    """Shows each committed run as a W&B run of its own, below `outputs/wandb`; online, it is uploaded from there.

    `mode` is 'offline' (no account, key or network needed), 'online' or 'disabled'. `entity` is the user or team; None is
    the account's own. `patience` in seconds is what an upload may take before the run is left offline, to be uploaded later.

    Raises:
        Invalid: another mode, or no patience at all.
    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "testbed"
    entity: str | None = None
    patience: float = 4.0

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online", "disabled"):
            raise Invalid("mode", self.mode, "must be offline, online or disabled")
        if not self.patience > 0:
            raise Invalid("patience", self.patience, "must be more than 0 seconds", "mode=offline needs none")

    def show(self, folder: Path, outputs: Path) -> None:
        """Show a committed run folder. What goes wrong costs one line on standard error and at most `patience` and a second."""
        if self.mode == "disabled" or (self.mode == "offline" and _is_shown(folder, outputs)):
            return
        try:
            kept, server = self._keep(Finished(folder, outputs.resolve()))
        except (Exception, SystemExit) as error:  # a view must not harm what it shows, whatever the client or the disk does
            _warn(f"this run is not shown ({last_line(error)}); its folder is complete: {folder}")
            return
        if self.mode == "online":
            try:
                upload(kept, server, self.patience)
            except Exception as error:
                later = f"wandb sync {shlex.quote(str(kept))}"
                _warn(f"this run was kept offline ({last_line(error)}); to upload it later: {later}")

    def _keep(self, finished: Finished) -> tuple[Path, str]:
        """Write the run to disk as W&B keeps it: its folder there, and the server that it would be sent to."""
        identifier = finished.identifier
        root = writable(finished.outputs / "wandb")
        replaced = [*root.glob(f"offline-run-*-{identifier}"), root / "data" / identifier]
        for old in replaced:
            shutil.rmtree(old, ignore_errors=True)  # what is left of a view that is shown anew does no harm
        with environment(folders(root, identifier, self.mode)), absent("wandb.sdk.launch"):
            import wandb  # half a second: only where it is used

            run = wandb.init(
                mode="offline",
                dir=finished.outputs,
                project=self.project,
                entity=self.entity,
                id=identifier,
                name=finished.record["name"],
                group=finished.group,
                job_type=finished.record["verb"],
                config=finished.configuration,
                reinit="create_new",
                settings=wandb.Settings(**PRIVATE, init_timeout=10, finish_timeout=5),
            )
            try:
                _fill(run, finished)
            finally:
                run.finish(exit_code=STATE.get(finished.result["status"], 1))
            if self.mode == "online":
                wandb.teardown()  # offline, `finish` comes back before all is on the disk, and half a run would be sent
            return Path(run.dir).parent, run.settings.base_url


PRIVATE = {
    "console": "off",
    "silent": True,
    "symlink": False,
    "host": "withheld",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_save_requirements": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
}
"""Nothing about the machine, the user or the sources leaves with a run."""


def _is_shown(folder: Path, outputs: Path) -> bool:
    """Whether W&B has kept this very run already: a rerun that did nothing need not be shown again."""
    kept = list((outputs / "wandb").glob(f"offline-run-*-{Finished(folder, outputs).identifier}"))
    return any(one.stat().st_mtime_ns > (folder / "result.json").stat().st_mtime_ns for one in kept)


def _fill(run: Any, finished: Finished) -> None:
    """Curves, pictures, measures and the poison manifest; no weights, no data, no answers."""
    import wandb

    run.define_metric("epoch", summary="none")
    for pattern in ("undefended*", "defended*", "clean_twin*"):
        run.define_metric(pattern, step_metric="epoch", summary="none")
    for pattern in ("figure/*", "roc/*"):
        run.define_metric(pattern, summary="none")
    for row in finished.history:
        run.log(row)
    trajectory = finished.trajectory
    run.define_metric("tuning_step", summary="none")
    for name in {name for row in trajectory for name in row if name != "tuning_step"}:
        run.define_metric(name, step_metric="tuning_step", summary="none")
    for row in trajectory:
        run.log(row)
    shown: dict[str, Any] = {
        f"figure/{path.stem}": wandb.Image(str(path)) for path in sorted(finished.folder.glob("figures/*.png"))
    }
    axes = ["false_positive_rate", "true_positive_rate"]
    for name, points in finished.roc_curves.items():
        table = wandb.Table(columns=axes, data=points.tolist())
        shown[f"roc/{name}"] = wandb.plot.line(table, x=axes[0], y=axes[1], title=f"ROC curve of {name}")
    if shown:
        run.log(shown)
    run.summary.update(finished.summary)
    if (finished.folder / "manifest.json").is_file():
        manifest = wandb.Artifact(f"manifest-{finished.record['key']}", type="poison-manifest")
        manifest.add_file(str(finished.folder / "manifest.json"))
        run.log_artifact(manifest)


def writable(root: Path) -> Path:
    """The folder, made if need be.

    Raises:
        OSError: it cannot be written to, or its disk is full: the client would go elsewhere, or lose what it is told.
    """
    root.mkdir(parents=True, exist_ok=True)
    if not os.access(root, os.W_OK):
        raise PermissionError(errno.EACCES, "no permission to write", str(root))
    if shutil.disk_usage(root).free < LEAST_FREE:
        raise OSError(errno.ENOSPC, "no space left on the disk", str(root))
    return root


def _warn(message: str) -> None:
    print(f"W&B: {message}", file=sys.stderr, flush=True)
