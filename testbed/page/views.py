"""What `testbed picture` drew, a row of pictures for each model."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.page.markup import tag, text
from testbed.page.pictures import Album, pictures
from testbed.page.run import Run, anchor

LAYOUT = {
    "features": "t-SNE of the training rows as received, the attacker's marked",
    "activation_change": "last channels: what the trigger moves, against the norm of the weights that read them",
    "grad_cam": "above as it was, in the middle as the attacker shows it, below where the model looks for the attacker's class",
    "stealth": "how much the pixels of poisoned training rows change",
    "pruning": "success and accuracy as last channels are pruned: dormant ones first, or (oracle) those most moved",
}


def views(runs: Sequence[Run], album: Album) -> str:
    """A section with the pictures of each model that was looked into; '' where there is none."""
    seen = [_view(run, album) for run in runs if run.facts["verb"] == "picture" and run.result["status"] == "done"]
    return tag("section", tag("h2", "Views into models"), *seen, class_="board") if seen else ""


def _view(run: Run, album: Album) -> str:
    shown = [(path.stem, album.add(path)) for path in pictures(run) if path.stem in LAYOUT]
    figures = [_figure(run, name, digest) for name, digest in shown if digest is not None]
    title = tag("summary", tag("a", text(run.folder.name), href=f"#{anchor(run)}"))
    return tag("details", title, tag("div", *figures, class_="gallery"), class_="pictures")


def _figure(run: Run, name: str, digest: str) -> str:
    words = name.replace("_", " ")
    image = tag("a", f'<img data-picture="{digest}" alt="{text(f"{words} of {run.folder.name}")}">', href=f"#picture-{digest}")
    return tag("figure", image, tag("figcaption", text(f"{words}: {LAYOUT[name]}")))
