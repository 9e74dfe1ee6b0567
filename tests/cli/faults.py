"""Faults and bad inputs by number: what is put into the working directory, the command, and the answer that it must get."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

QUICK = ("trainer.max_epochs=1", "model.network.width=2", "logger=none", "trainer.threads=1")
IMAGES = ("train", "data=image_folder", "data.root=set", "data.size=8", "attack.poison_rate=0.1", *QUICK)
FEW = ("data.validation_per_class=1", "data.reserve_per_class=2")
CHAT = ("degrade", "data=messages", "data.train=rows.jsonl", "model=hf_chat", "model.path=none", "logger=none")
BOMB = "\n".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
ROW = '{"prompt": "hello", "response": "I cannot"}\n'


class Fault(NamedTuple):
    """What is put into the working directory, the command, and what it must answer."""

    row: int
    name: str
    made: Callable[[Path], None]
    words: tuple[str, ...]
    code: int
    said: str


def nothing(here: Path) -> None:
    """The fault is in the words alone."""


def images(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """A folder `set` of images of two classes, changed in one place."""

    def made(here: Path) -> None:
        for part in ("train", "test"):
            for name in ("cat", "dog"):
                (here / "set" / part / name).mkdir(parents=True)
                for number in range(12):
                    Image.effect_noise((8, 8), 60).save(here / "set" / part / name / f"{number}.png")
        change(here / "set" / "train" / "cat")

    return made


def written(name: str, content: str | bytes) -> Callable[[Path], None]:
    """One file, its folder made."""

    def made(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return made


def conversations(row: str | bytes, before: int = 300) -> Callable[[Path], None]:
    """So many good rows, and one that is not."""
    return written("rows.jsonl", (ROW * before).encode() + (row.encode() if isinstance(row, str) else row))


def packed(here: Path) -> None:
    """110 MB of zeros in a file of 0.1 MB."""
    np.savez_compressed(here / "rows.npz", images=np.zeros((110_000, 32, 32), np.uint8), labels=np.arange(110_000) % 2)


def lying(here: Path) -> None:
    """A header that speaks of 64 TB, and no data."""
    with zipfile.ZipFile(here / "rows.npz", "w") as archive:
        for name in ("images.npy", "labels.npy"):
            with archive.open(name, "w") as entry:
                np.lib.format.write_array_header_1_0(entry, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)})


ARRAYS = ("train", "data=arrays", "data.train=rows.npz", "data.test=rows.npz", *QUICK)
OWN = ("train", "defence=mine", "--config-dir", "conf")
NOT_UTF_8 = conversations(b'{"prompt": "\xe9"}\n')
FAULTS = [
    Fault(16, "outputs", nothing, ("train", "paths.outputs=/proc/x"), 4, "paths.outputs=/proc/x: cannot write into /proc"),
    Fault(16, "sweep", nothing, ("train", "-m", "seed=0,1", "paths.outputs=/proc/x"), 4, "paths.outputs"),
    Fault(
        16, "cache", images(lambda _: None), (*IMAGES, *FEW, "data.cache=/proc/x"), 4, "data.cache=/proc/x: cannot be written"
    ),
    Fault(
        20,
        "torn",
        images(lambda at: (at / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nx")),
        (*IMAGES, *FEW),
        2,
        "cat/3.png: cannot",
    ),
    Fault(
        *(20, "on_disk", images(lambda at: (at / "3.png").write_bytes(b""))),
        *(
            (*IMAGES, *FEW, "data.in_memory=false", "data.workers=1"),
            2,
            "data.root=set/train/cat/3.png: cannot decode this image",
        ),
    ),
    Fault(
        21,
        "line",
        conversations('{"prompt": "a" "response": "b"}\n', 4011),
        CHAT,
        2,
        "data.train=rows.jsonl: line 4012: column",
    ),
    Fault(22, "no_utf_8", NOT_UTF_8, CHAT, 2, "line 301: the byte 0xe9 at offset 13212 is no UTF-8"),
    Fault(22, "nan", conversations('{"prompt": NaN}\n'), CHAT, 2, "line 301: NaN is no JSON"),
    Fault(22, "twice", conversations('{"prompt": "a", "prompt": "b"}'), CHAT, 2, "line 301: the key 'prompt' stands twice"),
    Fault(22, "deep", conversations("[" * 100_000), CHAT, 2, "data.train=rows.jsonl: line 301: "),
    Fault(
        37,
        "empty_prompt",
        conversations('{"prompt": " ", "response": "b"}\n'),
        CHAT,
        2,
        "line 301 (row 300): 'prompt' is empty",
    ),
    Fault(37, "no_prompts", written("rows.jsonl", ""), CHAT, 2, "data.train=rows.jsonl: the file holds no rows"),
    Fault(
        39,
        "nothing_to_learn",
        conversations('{"prompt": "a", "response": ""}\n'),
        CHAT,
        2,
        "line 301 (row 300): 'response' is empty",
    ),
    Fault(
        46,
        "aliases",
        written("conf/defence/mine.yaml", f"a: &a [1,2,3]\n{BOMB}\n"),
        OWN,
        2,
        "stands for more than 200,000 values",
    ),
    Fault(46, "depth", written("conf/defence/mine.yaml", "a: " + "[" * 100_000), OWN, 2, "more than 40 deep"),
    Fault(46, "size", written("conf/defence/mine.yaml", "a: 1\n#" + "x" * 2_000_000), OWN, 2, "more than 1,000,000 bytes"),
    Fault(
        46,
        "suite",
        written("conf/suite/mine.yaml", f"a: &a [1,2,3]\n{BOMB}\n"),
        ("benchmark", "suite=mine", "-cd", "conf"),
        2,
        "values",
    ),
    Fault(
        46,
        "search",
        written("conf/tune/mine.yaml", "a: &a [*a]\n"),
        ("tune", "suite=demo", "-cd", "conf"),
        2,
        "within what it repeats",
    ),
    Fault(46, "pipe", lambda here: os.mkfifo(here / "p.yaml"), ("train", "-cd", "."), 2, "p.yaml: it cannot be read"),
    Fault(46, "disk", nothing, ("train", "-cd", "/"), 2, "/: more than 20000 files lie below it"),
    Fault(46, "overrides", nothing, ("train", *(f"+a{i}=1" for i in range(10_000))), 2, "10001 words of"),
    Fault(46, "list", nothing, ("train", f"seed=[{'1,' * 4_000}1]"), 2, "at most 10000 and 1000 are read in one word"),
    Fault(46, "brackets", nothing, ("train", "seed=" + "[" * 1_000 + "]" * 1_000), 2, "brackets more than 20 deep"),
    Fault(
        46, "long_value", nothing, ("train", f"seed={'x' * 9_000}", *QUICK), 2, "x... (9000 letters): input should be a valid"
    ),
    Fault(
        46, "seeds", nothing, ("benchmark", "suite=demo", "seeds=1000000000000"), 2, "seeds=1000000000000: at most 10000 seeds"
    ),
    Fault(
        46,
        "elsewhere",
        nothing,
        ("train", "hydra.searchpath=[file:///tmp]"),
        2,
        "hydra.searchpath: a folder of configuration is",
    ),
    Fault(47, "zip_bomb", packed, ARRAYS, 2, "data.train=rows.npz: images.npy unpacks from"),
    Fault(47, "header", lying, ARRAYS, 4, "data.train=rows.npz: its arrays do not fit into memory"),
    Fault(
        48,
        "data",
        nothing,
        ("train", "data=text_table", "data.name=../x", "data.train=x", "data.test=x"),
        2,
        "data.name=../x: a name",
    ),
    Fault(
        49,
        "out",
        images(lambda at: (at / "x.png").symlink_to("/etc/hosts")),
        (*IMAGES, *FEW),
        2,
        "a link that leads out of set",
    ),
    Fault(
        49,
        "loop",
        images(lambda at: (at / "x").symlink_to("..")),
        (*IMAGES, *FEW),
        2,
        "train/cat/x: a folder within the folder",
    ),
    Fault(
        49,
        "itself",
        images(lambda at: (at / "x.png").symlink_to("x.png")),
        (*IMAGES, *FEW),
        2,
        "x.png: no file: a link that leads",
    ),
    Fault(
        49,
        "dangling",
        images(lambda at: (at / "x.png").symlink_to("y.png")),
        (*IMAGES, *FEW),
        2,
        "x.png: no file: a link that leads",
    ),
    Fault(49, "pipe", images(lambda at: os.mkfifo(at / "x.png")), (*IMAGES, *FEW), 2, "x.png: no file"),
    Fault(
        49,
        "configuration",
        lambda here: (here / "x.yaml").symlink_to("x.yaml"),
        ("train", "-cd", "."),
        2,
        "x.yaml: it cannot be read",
    ),
    Fault(
        50,
        "bomb",
        images(lambda at: Image.new("1", (5_001, 5_000)).save(at / "3.png")),
        (*IMAGES, *FEW),
        2,
        "more than 25 megapixels",
    ),
    Fault(50, "asked_for", nothing, (*IMAGES, "data.size=5001"), 2, "data.size=5001: images have at most 25 megapixels"),
    Fault(53, "large", nothing, ("train", f"seed={2**53 + 1}", *QUICK), 2, "whole numbers lie within 2^53"),
    Fault(53, "none", nothing, ("train", "seed=null", *QUICK), 2, "seed=null: input should be a valid integer"),
    Fault(
        53,
        "object",
        nothing,
        ("train", "seed=${attack}", *QUICK),
        2,
        "seed=Backdoor: is an object, where a plain value is read",
    ),
    Fault(
        25,
        "rate_of_learning",
        nothing,
        ("train", "trainer.optimiser.lr=nan", *QUICK),
        2,
        "trainer.optimiser.lr=nan: must be a finite",
    ),
    Fault(25, "limit_of_every_method", nothing, ("check", "limit=nan"), 2, "limit=nan: must be above 0"),
]
