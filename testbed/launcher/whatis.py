"""`testbed whatis FILE|DIR`: what a file is by its mark, or by its hash where it lost it; in a folder, everything marked.

It reads and reports; nothing is changed, and nothing but headers is parsed.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from testbed.error import escaped
from testbed.files import DIGESTS, digest
from testbed.launcher.search import SearchPath
from testbed.marks import Mark, files_below, mark_of, tensors_digest, tensors_table
from testbed.words import Refused

SHOWN = 40
"""Files that are named one by one in a folder."""
OUTPUTS = "paths.outputs"
WIDTH = 11


def whatis(words: Sequence[str], flags: Mapping[str, str], search: SearchPath) -> int:
    """Say of each file or folder what it is: 0, whatever that may be.

    Raises:
        Refused: nothing is named, or something that is not there or cannot be read.
    """
    outputs, paths = Path("outputs"), []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name == OUTPUTS:
            outputs = Path(value)
        else:
            paths.append(Path(word))
    if not paths:
        raise Refused(
            f"whatis: name a file or a folder, such as testbed whatis model.safetensors ({OUTPUTS}=DIR for the hashes)"
        )
    for path in paths:
        if not path.exists():
            raise Refused(f"whatis {shown(path)}: there is no such file or folder; give its path from {Path.cwd()}")
        if not path.is_file() and not path.is_dir():
            raise Refused(f"whatis {shown(path)}: this is a device or a pipe, which has no end; name a file or a folder")
    registry = Registry(outputs)
    for path in paths:
        print("\n".join(_of_folder(path, registry) if path.is_dir() else _of_file(path, registry)))
    return 0


class Registry:
    """The hashes of what lies below some outputs, and of what their runs say of it."""

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs

    @cached_property
    def by_hash(self) -> dict[str, Path]:
        """Every file that a committed folder knows by its SHA-256."""
        found: dict[str, Path] = {}
        for place in sorted(self.outputs.glob(f"*/*/{DIGESTS}")):
            for name, known in _read(place).items():
                found.setdefault(str(known), place.parent / name)
        return found

    @cached_property
    def manifests(self) -> dict[str, Path]:
        """The manifests of runs, by their own hash."""
        found: dict[str, Path] = {}
        for place in sorted(self.outputs.glob("*/*/manifest.json")):
            found.setdefault(str(_read(place).get("manifest_sha256")), place)
        return found

    def known(self, path: Path) -> tuple[Mark, str] | None:
        """What a file without a mark is, and how that is known: by its hash, or by that of its tensors."""
        place, how = self.by_hash.get(digest(path)), "SHA-256, which is that of"
        if place is None and path.suffix == ".safetensors":
            place, how = self._by_tensors(path), "tensors, which are those of"
        if place is None:
            return None
        card = place.parent / "card.json"
        there = place if place.is_file() or place.name != "model.safetensors" else card  # the card says what a lost model was
        found = mark_of(there) if there.is_file() else None
        return found or Mark("file of an output folder"), f"its {how} {place}"

    def _by_tensors(self, path: Path) -> Path | None:
        """The file of the outputs with these very tensors; only those with the same names and shapes are read."""
        table = tensors_table(path)
        if not table:
            return None
        alike = [place for place in sorted(self.outputs.glob("*/*/*.safetensors")) if tensors_table(place) == table]
        wanted = tensors_digest(path) if alike else None
        return next((place for place in alike if tensors_digest(place) == wanted), None)


def _of_file(path: Path, registry: Registry) -> list[str]:
    found, how = _found(path, registry)
    if found is None:
        return [
            f"{shown(path)}: no mark, and no hash that is known below {registry.outputs}; that is no proof that it is clean"
        ]
    lines = [f"{shown(path)}: {_title(found)}", _line("known by", how)]
    facts = {name: value for name, value in found.facts.items() if name not in ("manifest_sha256", "poisoned")}
    lines += [_line(name.replace("_", " "), value) for name, value in facts.items()]
    if "manifest_sha256" in found.facts:
        place = registry.manifests.get(found.facts["manifest_sha256"])
        where = f"{place}" if place is not None and place.resolve() != path.resolve() else ""
        lines.append(_line("manifest", " ".join([found.facts["manifest_sha256"][:16], where]).strip()))
    return [*lines, _line("SHA-256", digest(path))]


def _of_folder(path: Path, registry: Registry) -> list[str]:
    """What of a folder is marked, file by file as far as these are few, and how many of each kind there are."""
    lines: list[str] = []
    kinds: Counter[str] = Counter()
    looked_at = unreadable = 0
    for file in files_below(path):
        looked_at += 1
        try:
            found, how = _found(file, registry)
        except OSError as error:
            unreadable += 1
            print(f"whatis {shown(file)}: cannot be read ({error.strerror})", file=sys.stderr)
            continue
        if found is not None:
            kinds[_title(found)] += 1
            lines.append(f"{shown(file)}: {_title(found)}{'' if how == MARKED else f' ({how})'}")
    left = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    counted = [f"  {count:>6}  {kind}" for kind, count in sorted(kinds.items())]
    unread = f", {unreadable} could not be read" if unreadable else ""
    head = f"{shown(path)}: {looked_at} files, {sum(kinds.values())} of them marked or known by their hash{unread}"
    return [*lines[:SHOWN], *left, head, *counted]


MARKED = "its own mark"


def _found(path: Path, registry: Registry) -> tuple[Mark | None, str]:
    """What a file is, and how that is known."""
    own = mark_of(path)
    if own is not None and own.kind != "file with a canary":
        return own, MARKED
    known = None if own is not None else registry.known(path)
    return (own, MARKED) if known is None else known


def _title(found: Mark) -> str:
    picture = found.kind == "picture"
    words = {"true": "poisoned"} if picture else {"true": "BACKDOORED; never deploy it", "false": "not backdoored"}
    return ", ".join(filter(None, (found.kind, words.get(found.backdoored))))


def _line(name: str, value: str) -> str:
    return f"  {name:<{WIDTH}}{shown(value)}"


def shown(words: str | Path) -> str:
    """What a stranger's file says, or is called, in letters that do nothing to a terminal."""
    return escaped(str(words))


def _read(place: Path) -> dict[str, object]:
    """The object in a JSON file of ours; one that cannot be read is named and counts as empty."""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        print(f"whatis {place}: cannot be read ({error})", file=sys.stderr)
        return {}
    return found if isinstance(found, dict) else {}
