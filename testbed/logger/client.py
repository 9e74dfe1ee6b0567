"""The W&B client, kept to one folder and quiet: a view is written to disk as W&B keeps a run offline."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

LEAST_FREE = 16 * 2**20
"""Bytes: the client does not say when the disk is full, it only writes less."""

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


@dataclass(frozen=True)
class View:
    """What W&B shows as one run. `fill` tells it everything else; `digest` is equal only where all that is shown is.

    `subject` says for people what is shown; `of` is its own identifier, whatever the agent of a W&B sweep calls it, and
    `sweep` is that sweep.
    """

    identifier: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    configuration: Callable[[], Mapping[str, Any]]
    fill: Callable[[Any], None]
    exit_code: int
    digest: str
    subject: str
    of: str
    sweep: str = ""


class Kept(NamedTuple):
    """A view on the disk: its folder, and the server that it would be sent to."""

    folder: Path
    server: str


def keep(view: View, outputs: Path, mode: str, project: str, entity: str | None) -> Kept:
    """Write a view below `outputs/wandb`, in the place of an earlier one of the same identifier.

    Raises:
        OSError: the folder cannot be written to, or its disk is full.
        wandb.errors.Error: the client's own.
    """
    root = writable(outputs / "wandb")
    for old in (*root.glob(f"offline-run-*-{view.identifier}"), root / "data" / view.identifier):
        shutil.rmtree(old, ignore_errors=True)  # what is left of a view that is shown anew does no harm
    with environment(folders(root, view.identifier, mode)), absent("wandb.sdk.launch"), unlogged():
        import wandb  # half a second: only where it is used

        more = {"sweep_id": view.sweep} if view.sweep and not os.environ.get("WANDB_SWEEP_ID") else {}
        run = wandb.init(
            mode="offline",
            dir=outputs,
            project=project,
            entity=entity,
            id=view.identifier,
            name=view.name,
            group=view.group,
            job_type=view.job_type,
            tags=list(view.tags),
            config=dict(view.configuration()),
            reinit="create_new",
            settings=wandb.Settings(**PRIVATE, **more, init_timeout=10, finish_timeout=5),
        )
        try:
            view.fill(run)
        finally:
            run.finish(exit_code=view.exit_code)
        return Kept(Path(run.dir).parent, str(run.settings.base_url))


def settle() -> None:
    """Wait until all views are on the disk: the client says that a run is finished before that."""
    import wandb

    wandb.teardown()


def server(outputs: Path) -> str:
    """Where the client would send a run: WANDB_BASE_URL, or what `wandb login` was told."""
    with environment(folders(outputs / "wandb", "", "online")), absent("wandb.sdk.launch"):
        import wandb

        return str(wandb.setup().settings.base_url)


def folders(root: Path, name: str, mode: str) -> dict[str, str]:
    """Environment variables that keep everything the client writes below `root`.

    Online, the user's own settings are read where `wandb login` left them.
    """
    chosen = {
        "WANDB_DATA_DIR": str(root / "data" / name),
        "WANDB_ARTIFACT_DIR": str(root / "data" / name),
        "WANDB_CACHE_DIR": str(root / "cache"),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
    }
    return chosen if mode == "online" else {**chosen, "WANDB_CONFIG_DIR": str(root / "config")}


@contextmanager
def environment(chosen: Mapping[str, str]) -> Iterator[None]:
    """These variables inside, as they were afterwards: other code and child processes never see them."""
    before = {name: os.environ.get(name) for name in (*chosen, "WANDB_SERVICE")}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def absent(module: str) -> Iterator[None]:
    """Importing this module fails inside, unless it was imported before.

    The client imports what starts jobs on other machines whenever a run begins, and does without if it cannot: its hundred
    pydantic models look through every module of PyTorch for their own source, which took two seconds of processor time.
    """
    known = module in sys.modules
    if not known:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not known:
            del sys.modules[module]


@contextmanager
def unlogged() -> Iterator[None]:
    """A log that cannot be written costs nobody a word inside: the client keeps one beside each view, on the same full disk."""
    before = logging.raiseExceptions
    logging.raiseExceptions = False
    try:
        yield
    finally:
        logging.raiseExceptions = before


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


def last_line(problem: object) -> str:
    """The last line of what was said, without the client's prefix."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return re.sub(r"^(wandb: )?(ERROR |Error: )?", "", lines[-1]) if lines else type(problem).__name__
