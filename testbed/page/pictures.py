"""Pictures from run folders: each once, however many runs share it, and no more than the page can carry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testbed.leaderboard import Cell, Leaderboard
from testbed.page.markup import data_uri, tag, text
from testbed.page.place import against
from testbed.page.run import Run, run_of

ROOM = 6_000_000
"""Bytes of pictures in one page, before they are written as text."""
DRAWN = ("scores.png", "trajectory.png")
"""Ends of names of plots, which the page draws itself."""
LAYOUT = {
    "attack": "above as it was, in the middle as the attacker shows it, below the difference four times enlarged",
    "inverted": "a column a class: mask, pattern, and what they add",
}


@dataclass
class Album:
    """`addresses` by content hash; what did not fit is counted. Only PNG files are read, so that no prompt or answer is."""

    room: int = ROOM
    addresses: dict[str, str] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)

    @property
    def left_out(self) -> int:
        return len(self._refused)

    def add(self, path: Path) -> str | None:
        """The hash of a picture that is now in the album; None where it does not fit."""
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        if digest in self.addresses:
            return digest
        if len(content) > self.room:
            self._refused.add(digest)
            return None
        self.room -= len(content)
        self.addresses[digest] = data_uri(content, "image/png")
        self._refused.discard(digest)
        return digest


def pictures(run: Run) -> list[Path]:
    """The PNG files of a run that are not plots."""
    found = sorted((run.folder / "figures").glob("*.png"))
    return [path for path in found if not path.name.endswith(DRAWN)]


def gallery(board: Leaderboard, runs: Mapping[str, Run], album: Album) -> str:
    """One picture for each attack and exam, and for each inverted trigger; '' where there are none."""
    shown: dict[str, tuple[str, int]] = {}
    for caption, path in _first_of_each(board, runs):
        digest = album.add(path)
        if digest is not None:
            known = shown.get(digest)
            shown[digest] = (known[0], known[1] + 1) if known else (caption, 1)
    figures = [_picture(digest, caption, more - 1) for digest, (caption, more) in shown.items()]
    if not figures:
        return ""
    summary = tag("summary", text(f"Stamped inputs and inverted triggers: {len(figures)}"))
    return tag("details", summary, tag("div", *figures, class_="gallery"), class_="pictures")


def _first_of_each(board: Leaderboard, runs: Mapping[str, Run]) -> Iterator[tuple[str, Path]]:
    met: set[tuple[str, ...]] = set()
    for cell in board.cells:
        for trial in cell.done:
            run = run_of(trial.folder, runs)
            for path in pictures(run) if run else ():
                names = _what(cell, path)
                if names not in met:
                    met.add(names)
                    yield f"{', '.join(names)}, {trial.turn_in_words}", path


def _what(cell: Cell, path: Path) -> tuple[str, ...]:
    """What a picture is of; inverted triggers are a method's, stamps are not."""
    inverted = path.stem.endswith("inverted")
    whose = (cell.method,) if inverted else ()
    return (cell.world, against(cell), *whose, path.stem.replace("_", " "))


def _picture(digest: str, caption: str, more: int) -> str:
    inverted = "inverted" in caption
    same = f"; {more} more alike" if more else ""
    told = f"{caption}{same}: {LAYOUT['inverted' if inverted else 'attack']}"
    image = tag("a", f'<img data-picture="{digest}" alt="{text(caption)}">', href=f"#picture-{digest}")
    return tag("figure", image, tag("figcaption", text(told)))


def of_runs(runs: Sequence[Run], album: Album) -> dict[str, list[tuple[str, str]]]:
    """By folder name: the names and hashes of its pictures that fit."""
    return {
        run.folder.name: [(path.stem, digest) for path in pictures(run) if (digest := album.add(path)) is not None]
        for run in runs
    }
