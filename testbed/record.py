"""Run folders: what a run leaves, committed by rename, last of all."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from testbed.error import Diverged, Invalid, Unsupported
from testbed.files import Damaged, committed, digests, read_json, verify, write_json
from testbed.index import REUSABLE
from testbed.lock import lock
from testbed.shortage import DISK, gpu, out_of_memory, peak_memory, told
from testbed.source import current_source
from testbed.words import Faulty, Refused, Terminated, TimedOut

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 2
REQUIRED = ("verb", "name", "key", "settings", "cell", "contents", "sources", "names", "made_at")
"""What of `run.json` a reader relies on. `made_at` is a time in UTC, ISO 8601, so that times compare as texts do."""

DAMAGED = "damaged"

LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "wandb", "scikit-learn", "numpy", "safetensors")
EXTRAS = ("transformers", "peft", "tokenizers")


@dataclass(frozen=True)
class Origin:
    """Where a run came from: the resolved configuration, the command line, the chosen names, the sweep that it is part of."""

    config: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    group: str = ""


@dataclass
class Outcome:
    """What `result.json` says: `measures` are flat numbers (null where undefined), `counts` the n of each.

    `reasons` say of some that are null why.
    """

    status: str = "done"
    reason: str | None = None
    measures: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


class Workspace:
    """A run while it runs: its folder under a temporary name, its clock, and what it reused or made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.peak_memory: dict[str, int] = {}
        self.reused: list[str] = []
        self.made: list[str] = []
        self.victims: dict[str, str] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Seconds and peak memory in bytes (of the process, and of the GPU where there is one) are booked under this name."""
        start = time.monotonic()
        on_gpu = gpu()
        if on_gpu is not None:
            on_gpu.reset_peak_memory_stats()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 3)
            self.peak_memory[name] = peak_memory()
            if on_gpu is not None:
                self.peak_memory[f"{name}_gpu"] = on_gpu.max_memory_allocated()

    def tensors(self, name: str, **tensors: Tensor) -> None:
        """Per-example values, as `name`.safetensors."""
        from safetensors.torch import save_file

        save_file(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, self.folder / f"{name}.safetensors"
        )

    def write(self, name: str, value: Any) -> None:
        """Plain data, as the JSON file `name`."""
        write_json(self.folder / name, value)


@dataclass(frozen=True)
class Identity:
    """What names a run: its verb and name, the key over everything, and the key over its settings alone.

    `cell` is the key over its settings without the seed, `contents` are digests of its data, `sources` of its code.
    """

    verb: str
    name: str
    key: str
    settings: str
    cell: str
    contents: Mapping[str, str]
    sources: Mapping[str, str]

    def folder(self, outputs: Path) -> Path:
        """`outputs/<verb>/<name>-<key>`."""
        return outputs / self.verb / f"{self.name}-{self.key}"


def recorded(
    identity: Identity, outputs: Path, origin: Origin, work: Callable[[Workspace], Outcome], say: Callable[[str], None] = print
) -> Path:
    """The folder of this run: found finished, or made now. A failed run is recorded as well, and is tried again next time.

    Raises:
        Invalid: bad configuration or input; nothing is recorded, for nothing was run.
    """
    final = identity.folder(outputs)
    final.parent.mkdir(parents=True, exist_ok=True)
    for old, why in stale(identity, outputs):
        say(f"stale: {old} has these settings, but {why} changed since; it is kept and not mixed with this run")
    with lock(final, say) as held:
        known = status(final)
        if known in REUSABLE and facts(final) is not None:
            say(f"already done, nothing was run: {final.name}")
            return final
        if known in (*REUSABLE, DAMAGED):
            why = "damaged" if known == DAMAGED else "of another version"
            say(f"its record is {why}, so that it is run again: {final.name}")
        with committed(final, held) as folder:
            workspace = Workspace(folder)
            outcome, interruption = _outcome(work, workspace, origin)
            write_json(folder / "result.json", {"schema": SCHEMA, **vars(outcome)})
            write_json(folder / "run.json", {**provenance(identity, origin), **_spent(workspace)})
            (folder / "config.yaml").write_text(yaml.safe_dump(dict(origin.config), sort_keys=False, allow_unicode=True))
    if interruption is not None:
        raise interruption
    return final


def _outcome(
    work: Callable[[Workspace], Outcome], workspace: Workspace, origin: Origin
) -> tuple[Outcome, BaseException | None]:
    """How it went, and the interruption to pass on once that is recorded."""
    try:
        return work(workspace), None
    except (Invalid, Refused):
        raise
    except Unsupported as reason:
        return Outcome("skipped", str(reason)), None
    except Diverged as reason:
        return Outcome("diverged", str(reason)), None
    except TimedOut as reason:
        (workspace.folder / "error.txt").write_text(traceback.format_exc())  # where it was when its time had run out
        return Outcome("timeout", str(reason)), None
    except (KeyboardInterrupt, Terminated) as interruption:
        return Outcome("interrupted", str(interruption) or "Ctrl-C"), interruption
    except (Exception, SystemExit) as error:  # one method's fault must not end the others' runs: recorded with its trace
        if isinstance(error, OSError) and error.errno in DISK:
            raise  # the machine's fault, and no outcome of this run
        (workspace.folder / "error.txt").write_text(traceback.format_exc())
        if out_of_memory(error):
            return Outcome("failed", told(error, origin.config)), None
        return Outcome("failed", str(error) if isinstance(error, Faulty) else f"{type(error).__name__}: {error}"), None


def _spent(workspace: Workspace) -> dict[str, Any]:
    return {
        "seconds": workspace.seconds,
        "peak_memory": workspace.peak_memory,
        "reused": sorted(set(workspace.reused)),
        "made": sorted(set(workspace.made)),
        "victims": workspace.victims,
    }


def provenance(identity: Identity, origin: Origin) -> dict[str, Any]:
    """What a reader needs to trust and to repeat a run."""
    return {
        "schema": SCHEMA,
        "made_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        **vars(identity),
        "names": dict(origin.names),
        "group": origin.group,
        "command": list(origin.command),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **dict(_versions())},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "threads": _threads()},
        "device": "cpu" if gpu() is None else gpu().get_device_name(),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in (*LIBRARIES, *EXTRAS):
        with suppress(PackageNotFoundError) if name in EXTRAS else nullcontext():
            yield name, version(name)


def commit() -> str | None:
    """The commit of the checkout that this code runs from; None where it is no checkout."""
    here = Path(__file__).parent.parent
    if not (here / ".git").exists():
        return None
    answer = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def stale(identity: Identity, outputs: Path) -> list[tuple[str, str]]:
    """Finished runs with these settings whose code or data were others: folder name, and what changed."""
    found = []
    for run in sorted((outputs / identity.verb).glob(f"{identity.name}-*/run.json")):
        past = facts(run.parent) or {}
        if past.get("settings") == identity.settings and past.get("key") != identity.key:
            found.append((run.parent.name, changed(past.get("sources", {})) or "the data"))
    return found


def changed(then: Mapping[str, str]) -> str:
    """The modules whose source is not what it was, or '' if all are."""
    modules = [module for module, digest in then.items() if current_source(module) != digest]
    return ", ".join(modules[:3]) + (f" and {len(modules) - 3} more" if len(modules) > 3 else "")


def facts(folder: Path) -> dict[str, Any] | None:
    """What `run.json` says; None where it cannot be read, is of another schema, or lacks what is `REQUIRED`."""
    try:
        found = read_json(folder / "run.json")
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and found.get("schema") == SCHEMA and all(name in found for name in REQUIRED)
    return found if known else None


def status(folder: Path) -> str | None:
    """What `result.json` says, `DAMAGED` where it is not what was written, or None where there is none."""
    if not (folder / "result.json").is_file():
        return None
    try:
        require_sound(folder)
        return str(read_json(folder / "result.json")["status"])
    except (ValueError, KeyError, Damaged):
        return DAMAGED


def require_sound(folder: Path) -> None:
    """Raises `Damaged` where the record of a run is not what was written; one that knows no digests is believed."""
    if digests(folder):
        verify(folder, "result.json", "run.json")


def runs(root: Path) -> list[Path]:
    """Every committed run folder below `root`, in order of name."""
    found = [path.parent for path in root.glob("**/result.json")]
    return sorted(folder for folder in found if not any(part.startswith(".") for part in folder.relative_to(root).parts))


def _threads() -> int | None:
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def warn(message: str) -> None:
    """One line on standard error."""
    print(message, file=sys.stderr, flush=True)
