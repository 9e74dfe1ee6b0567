"""A data root: which data sets lie in it, whether they can be read, and whether they are what was published."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from testbed.checkup.finding import INPUT, Finding, reason

BLOCK = 1 << 20
RAW = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TEXTS = "text/"
WITHOUT = "digits, icons, toy_reviews and toy_world need no files"


class Damage(Exception):
    """A file is there and is not what it should be: which, and why."""


class Stored(NamedTuple):
    """The files of a data set below the root, with the MD5 that each was published with, or '' where only presence counts.

    `packed` are MD5s of gzip files: where one lies beside its unpacked file, the two are compared.
    """

    files: Mapping[str, str]
    packed: Mapping[str, str] = {}


def _idx(folder: str, *packed: str) -> Stored:
    names = [f"{folder}/raw/{name}" for name in RAW]
    return Stored(dict.fromkeys(names, ""), dict(zip(names, packed, strict=True)))


def _in(folder: str, **files: str) -> Stored:
    return Stored({f"{folder}/{name.replace('__', '.')}": digest for name, digest in files.items()})


KNOWN = {
    "mnist": _idx(
        "MNIST",
        *("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
        *("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    "fashion_mnist": _idx(
        "FashionMNIST",
        *("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
        *("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
    "kmnist": _idx(
        "KMNIST",
        *("bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344"),
        *("5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134"),
    ),
    "cifar10": _in(
        "cifar-10-batches-py",
        data_batch_1="c99cafc152244af753f735de768cd75f",
        data_batch_2="d4bba439e000b95fd0a9bffe97cbabec",
        data_batch_3="54ebc095f3ab1f0389bbae665268c751",
        data_batch_4="634d18415352ddfa80567beed471001a",
        data_batch_5="482c414d41f54cd18b22e5b47cb7c3cb",
        test_batch="40351d587109b95175f43aff81a1287e",
        batches__meta="5ff9c542aee3614f3951f8cda6e48888",
    ),
    "cifar100": _in(
        "cifar-100-python",
        train="16019d7e3df5f24257cddd939b257f8d",
        test="f0ef6b0ae62326f3e7ffdfab6717acfc",
        meta="7973b15100ade9c7d40fb424638fde48",
    ),
    "svhn": _in(".", train_32x32__mat="e26dedcc434d2e4c54c9b2d4a06d8373", test_32x32__mat="eb5a983be6a315427106f1b164d9cef3"),
    "stl10": _in(
        "stl10_binary",
        train_X__bin="918c2871b30a85fa023e0c44e0bee87f",
        train_y__bin="5a34089d4802c674881badbb80307741",
        test_X__bin="7f263ba9f9e0b06b93213547f721ac82",
        test_y__bin="36f9794fa4beb8a2c72628de14fa638e",
        unlabeled_X__bin="5242ba1fed5e4be9e1e742405eb56ca4",
    ),
    "gtsrb": Stored({"gtsrb/GT-final_test.csv": "", "gtsrb/GTSRB/Training": "", "gtsrb/GTSRB/Final_Test/Images": ""}),
    "sst2": Stored({f"text/SST-2-sentence-level/{part}.tsv": "" for part in ("train", "dev", "test")}),
    "sst2 form=glue": Stored({f"text/SST-2/{part}.tsv": "" for part in ("train", "dev")}),
    "ag_news": Stored({f"text/ag_news/{name}": "" for name in ("train_subset10k_lowercased.tsv", "test.csv")}),
}
"""By `data=`. The sums are those that torchvision compares and the cards in `datasets/` name."""


def data_root(root: Path, key: str, *, named: bool) -> Iterator[Finding]:
    """What of the data sets lies below a root; `named` by the user, it has to be there."""
    if not root.is_dir():
        mark = "problem" if named else "ok"
        advice = f"say {key}=DIR" if named else f"{WITHOUT}; {key}=DIR looks elsewhere"
        yield Finding(mark, "data", f"there is no folder {root}", advice, INPUT)  # type: ignore[arg-type]
        return
    if not os.access(root, os.R_OK | os.X_OK):
        yield Finding("problem", "data", f"{root} cannot be read", "mend its permissions (chmod -R u+rX)", INPUT)
        return
    there = [finding for name, stored in KNOWN.items() if (finding := _looked_at(root, name, stored)) is not None]
    yield from there
    yield from (found for found in [_own_images(root)] if found is not None)
    absent = [name for name in KNOWN if name not in {finding.what for finding in there} and " " not in name]
    if absent:
        advice = f"data.download=true fetches some, datasets/NAME.md says how to get each; {WITHOUT}"
        yield Finding("ok", "data", f"not below {root}: {', '.join(absent)}", advice)


def _looked_at(root: Path, name: str, stored: Stored) -> Finding | None:
    """None where none of its files is there."""
    if not any((root / file).exists() for file in stored.files):
        inside = {file.removeprefix(TEXTS): digest for file, digest in stored.files.items()}  # the root of texts itself
        return _looked_at(root, name, Stored(inside)) if list(inside) != list(stored.files) else None
    card = f"get it again, see datasets/{name.split(maxsplit=1)[0]}.md"
    missing = [file for file in stored.files if not (root / file).exists()]
    if missing:
        return Finding("problem", name, f"of {len(stored.files)} files, {missing[0]} is not there", card, INPUT)
    try:
        checked = sum(_checked(root / file, digest, stored.packed.get(file, "")) for file, digest in stored.files.items())
    except Damage as error:
        return Finding("problem", name, str(error), card, INPUT)
    except OSError as error:
        return Finding("problem", name, f"{error.filename} cannot be read ({reason(error)})", "mend its permissions", INPUT)
    known = f"{checked} of {len(stored.files)} by their published MD5" if checked else "no checksum was published"
    return Finding("ok", name, f"there and readable, {known}")


def _checked(path: Path, digest: str, packed: str) -> bool:
    """Whether a file could be compared with what was published.

    Raises:
        OSError: it cannot be read. Damage: it is another, or empty.
    """
    if path.is_dir():
        if not any(path.iterdir()):
            raise Damage(f"{path} is empty")
        return False
    if not path.stat().st_size:
        raise Damage(f"{path} is empty")
    if digest:
        return _same(path, digest)
    zipped = path.with_name(f"{path.name}.gz")
    if not packed or not zipped.is_file():
        with path.open("rb") as stream:
            stream.read(1)
        return False
    _same(zipped, packed)
    with path.open("rb") as plain, gzip.open(zipped) as unpacked:
        while block := plain.read(BLOCK):
            if block != unpacked.read(len(block)):
                raise Damage(f"{path} is not what {zipped.name} holds")
        if unpacked.read(1):
            raise Damage(f"{path} is cut off: {zipped.name} holds more")
    return True


def _same(path: Path, digest: str) -> bool:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != digest:
        raise Damage(f"{path} is damaged: its MD5 is {found}, not {digest}")
    return True


def _own_images(root: Path) -> Finding | None:
    """A root with train/ and test/ is a folder of images, each class a folder."""
    parts = [root / part for part in ("train", "test")]
    if not all(part.is_dir() for part in parts):
        return None
    classes, tested = ({entry.name for entry in os.scandir(part) if entry.is_dir()} for part in parts)
    if len(classes) < 2 or not tested <= classes:
        said = f"{len(classes)} classes in train/, and {len(tested - classes)} in test/ that are not among them"
        return Finding("problem", "image_folder", said, "give both parts the same two classes or more", INPUT)
    count = sum(len(os.listdir(part / name)) for part in parts for name in classes if (part / name).is_dir())
    return Finding("ok", "image_folder", f"{len(classes)} classes, {count} files, which are decoded when they are first used")
