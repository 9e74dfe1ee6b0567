"""Faces of 55 people, and what real glasses do to them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from testbed.api import Invalid, Splits
from testbed.data import alignment
from testbed.data.alignment import Template, aligned
from testbed.data.arrays import read_archive
from testbed.data.cache import cached_tensors, digest_of, file_digests
from testbed.data.memory import MemoryExamples
from testbed.data.splits import divide, image_task, integer_labels, one_line, stratified
from testbed.files import beside

SIDE = 64
OLIVETTI, YALE = "olivetti_400x64x64.npz", "yalefaces.npz"
PEOPLE = {OLIVETTI: 40, YALE: 15}
CLASSES = tuple(f"olivetti{person:02d}" for person in range(1, 41)) + tuple(f"yale{person:02d}" for person in range(1, 16))
SCALES = tuple(round(0.46 + 0.02 * step, 2) for step in range(9))
"""Of the photographs of Yale: from these the size of faces is chosen."""


class Pictures(NamedTuple):
    """Images uint8 (N, 1, H, W), whose they are (int64 (N,), from 0), and what each shows: its condition."""

    images: Tensor
    people: Tensor
    conditions: tuple[str, ...]


def faces(
    root: str | Path,
    cache: str | Path,
    *,
    download: bool = False,
    mean: Sequence[float] = (0.489,),
    std: Sequence[float] = (0.188,),
    augmentation: str = "none",
    test_per_class: int = 2,
    validation_per_class: int = 1,
    reserve_per_class: int = 1,
    reserve_source: str = "reserved",
) -> Splits:
    """Who is it? 40 people of the Olivetti faces and 15 of the Yale faces, grey, uint8 (N, 1, 64, 64), eyes in the same place.

    `root/faces` holds the archives `OLIVETTI` and `YALE`. The Olivetti faces are cut already; those of Yale are cut where they
    look most like the mean of the others (`alignment.aligned`), which is kept in `cache`. Copies of one picture count once.
    Two exams are in no part: 'worn_glasses', the picture in which a person really wears glasses, and 'bare_faces', the picture
    `noglasses` of the same people; copies of either are left out of everything else. Who has no picture with glasses that
    differs from the others is in neither (Yale's subject08: a copy of `normal`).

    Sources: Samaria and Harter 1994 (IEEE WACV); Belhumeur, Hespanha and Kriegman 1997 (IEEE TPAMI 19).

    Raises:
        Invalid: a file is not there or holds something else, or the download failed.
    """
    task = image_task(CLASSES, (1, SIDE, SIDE), mean=mean, std=std, augmentation=augmentation)
    place = Path(root) / "faces"
    if download and not (place / OLIVETTI).is_file():
        fetch(place / OLIVETTI)
    cut, photographs = read(place / OLIVETTI), read(place / YALE, conditions=True)
    if cut.images.shape[1:] != (1, SIDE, SIDE):
        raise Invalid("root", place / OLIVETTI, f"images are {tuple(cut.images.shape[1:])}, where they are (1, {SIDE}, {SIDE})")
    worn, bare, others = exams_of(photographs)
    images = _placed(place, cut, photographs, Path(cache))
    labels = photographs.people + PEOPLE[OLIVETTI]
    kept = torch.cat([cut.images, images[others]]), torch.cat([cut.people, labels[others]])
    everything = MemoryExamples(*kept)
    rows = stratified(everything.labels, {"test_per_class": test_per_class}, CLASSES)
    splits = divide(
        "faces",
        task,
        everything.take(rows["rest"]),
        everything.take(rows["test_per_class"]),
        validation_per_class=validation_per_class,
        reserve_per_class=reserve_per_class,
        reserve_source=reserve_source,
    )
    shown = {"worn_glasses": worn, "bare_faces": bare}
    return replace(splits, exams={name: MemoryExamples(images[chosen], labels[chosen]) for name, chosen in shown.items()})


def fetch(path: Path) -> None:
    """Let scikit-learn download the Olivetti faces, and keep them as an archive without pickled objects."""
    from sklearn.datasets import fetch_olivetti_faces  # two seconds, only where something is downloaded

    temporary = beside(path)
    try:
        # A folder of its own: what scikit-learn finds in its usual one is unpickled, whoever put it there.
        with TemporaryDirectory() as home:
            found = fetch_olivetti_faces(data_home=home)
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez_compressed(file, images=np.uint8(np.round(255 * found.images)), labels=np.uint8(found.target))
        os.replace(temporary, path)
    except Exception as error:
        # scikit-learn raises what its downloader or reader raises: there is no common type.
        limit = f"the Olivetti faces could not be downloaded: {one_line(error)}"
        raise Invalid("download", True, limit, "put the file there by hand, see datasets/faces.md") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read(path: Path, *, conditions: bool = False) -> Pictures:
    """The pictures of one archive.

    Raises:
        Invalid: it is not there, or its arrays are not as `datasets/faces.md` says.
    """
    advice = "see datasets/faces.md"
    if not path.is_file():
        raise Invalid(
            "root", path, "there is no such file", f"say data.download=true, or {advice}" if not conditions else advice
        )
    images, labels = read_archive(path, "root")
    people = integer_labels(labels, "root", path)
    if images.dtype != np.uint8 or images.ndim != 3 or len(images) != len(people):
        limit = f"images {images.dtype} {images.shape} with {len(people)} labels, where uint8 (N, H, W) and N are read"
        raise Invalid("root", path, limit, advice)
    if people.unique().tolist() != list(range(PEOPLE[path.name])):
        raise Invalid("root", path, f"the labels are not those of {PEOPLE[path.name]} people, from 0", advice)
    said = ("",) * len(people)
    if conditions:
        with np.load(path, allow_pickle=False) as archive:
            said = tuple(map(str, archive["condition"])) if "condition" in archive else ()
        if len(said) != len(people):
            raise Invalid("root", path, f"{len(said)} conditions of {len(people)} pictures", advice)
    return Pictures(torch.from_numpy(images)[:, None], people, said)


def exams_of(pictures: Pictures) -> tuple[list[int], list[int], list[int]]:
    """Rows of pictures with glasses really worn, of the bare faces of the same people, and of all others, no copy among them.

    A person is examined who has a picture `glasses` without a copy of another name, and a picture `noglasses`.
    """
    worn: list[int] = []
    bare: list[int] = []
    others: list[int] = []
    for person in pictures.people.unique().tolist():
        copies: dict[bytes, list[int]] = {}
        for row in (pictures.people == person).nonzero().flatten().tolist():
            copies.setdefault(pictures.images[row].numpy().tobytes(), []).append(row)
        named = {rows[0]: {pictures.conditions[row] for row in rows} for rows in copies.values()}
        with_glasses = [row for row, names in named.items() if names == {"glasses"}]
        without = [row for row, names in named.items() if "noglasses" in names]
        if with_glasses and without:
            worn, bare = worn + with_glasses[:1], bare + without[:1]
            named = {row: names for row, names in named.items() if not names & {"glasses", "noglasses"}}
        others += named
    return worn, bare, others


def _placed(place: Path, cut: Pictures, photographs: Pictures, cache: Path) -> Tensor:
    """uint8 (N, 1, 64, 64): the faces of these photographs, found once and then read from `cache`."""

    def find() -> dict[str, Tensor]:
        common, found = Template(cut.images, symmetric=True), photographs.images[:, :, :SIDE, :SIDE].clone()
        for person in photographs.people.unique().tolist():
            mine = (photographs.people == person).nonzero().flatten()
            bare = [number for number, row in enumerate(mine.tolist()) if photographs.conditions[row] == "noglasses"]
            found[mine] = aligned(photographs.images[mine], (bare or [0])[0], common, SCALES, SIDE)
        return {"inputs": found}

    contents = file_digests(place, list(PEOPLE), cache)
    sources = (Path(source).read_bytes() for source in (__file__, alignment.__file__))
    return cached_tensors(cache, f"faces-{digest_of(*sources, *contents)[:32]}", find)["inputs"]
