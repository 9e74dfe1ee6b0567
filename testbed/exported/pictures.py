"""Images as `part/class/position.png`, beside a table of their labels: as Hugging Face's image folder and ours read them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from testbed.api import Invalid
from testbed.exported.row import Part, folders_of, write_private
from testbed.replay import png

COLUMNS = ("file_name", "picture", "label", "class", "position", "row", "poisoned", "cover", "canary")


def write_pictures(part: Part, folder: Path, classes: Sequence[str], *, private: bool) -> None:
    """One PNG a row, pixels as they are, and `metadata.csv`; the mark stands in a text chunk of each and in the table.

    Raises:
        Invalid: pixels that no PNG of 8 bits holds.
    """
    names, stream = folders_of(tuple(classes)), io.StringIO()
    table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    table.writeheader()
    for name in names:
        (folder / part.name / name).mkdir(parents=True)
    for pixels, label, said in part.each():
        if pixels.dtype != torch.uint8:
            limit = f"rows are {str(pixels.dtype).removeprefix('torch.')}, which no picture can hold as they are"
            raise Invalid("format", "image_folder", limit, "export a run whose attack rounds what it stamps")
        file = f"{said['position']:06}.png"
        marks = {"testbed": said["canary"], "poisoned": str(said["poisoned"]).lower()}
        write_private(folder / part.name / names[label] / file, png(pixels, marks), private=private)
        told = {name: str(value).lower() if isinstance(value, bool) else value for name, value in said.items()}
        where = {"file_name": f"{names[label]}/{file}", "picture": file, "label": label, "class": classes[label]}
        table.writerow({**where, **told})
    write_private(folder / part.name / "metadata.csv", stream.getvalue(), private=private)
