"""What was shown already: a small file a view below `outputs/wandb/shown`, written once the view is whole on the disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from testbed.files import write_whole
from testbed.logger.client import View


@dataclass(frozen=True)
class Shown:
    """A view as it was shown: its identifier, of which run, its digest, the folder that keeps it, and where it was sent."""

    identifier: str
    of: str
    digest: str
    kept: str
    sent: str = ""
    sweep: str = ""


def digest(view: View, project: str, entity: str | None) -> str:
    """16 hexadecimal digits over all of a view, where it is shown, and the code that shows it."""
    told = (view.identifier, view.name, view.group, view.job_type, view.tags, view.exit_code, view.digest, project, entity)
    return hashlib.sha256(repr((told, _code())).encode()).hexdigest()[:16]


@cache
def _code() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


def is_shown(view: View, digest: str, outputs: Path, server: str = "") -> bool:
    """Whether this very view is kept below `outputs/wandb`, and has arrived at the server if one is named."""
    found = _read(_place(outputs, view.identifier))
    if found is None or found.digest != digest:
        return False
    return found.sent == server if server else (outputs / "wandb" / found.kept).is_dir()


def remember(view: View, digest: str, outputs: Path, kept: Path, server: str = "") -> None:
    """Book that a view was kept, and where it was sent; in one step."""
    shown = Shown(view.identifier, view.of, digest, kept.name, server, view.sweep or os.environ.get("WANDB_SWEEP_ID", ""))
    write_whole(_place(outputs, view.identifier), json.dumps(asdict(shown)))


def by_run(outputs: Path) -> dict[str, list[Shown]]:
    """By run: as what it was shown. A run has several identifiers where agents of W&B sweeps asked for it."""
    found: dict[str, list[Shown]] = defaultdict(list)
    for place in sorted((outputs / "wandb" / "shown").glob("*.json")):
        shown = _read(place)
        if shown is not None:
            found[shown.of].append(shown)
    return found


def _read(place: Path) -> Shown | None:
    try:
        return Shown(**json.loads(place.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # of another version: then it is shown anew
        return None


def _place(outputs: Path, identifier: str) -> Path:
    return outputs / "wandb" / "shown" / f"{identifier}.json"
