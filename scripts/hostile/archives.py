"""Zip archives that lie: about names, places, sizes, and about being archives alone."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Sequence

from hostile.assembler import FLOATS, checkpoint, mapping, program, tensor
from hostile.case import Aim, Case, content
from hostile.pickles import system

HONEST = program(mapping({"w": tensor()}))
PARTS = (
    ("archive/data.pkl", HONEST),
    ("archive/byteorder", b"little"),
    ("archive/data/0", FLOATS),
    ("archive/version", b"3\n"),
)


def zipped(
    parts: Sequence[tuple[str, bytes]], change: Callable[[zipfile.ZipInfo], None] | None = None, method: int = 0
) -> bytes:
    """An archive of these members; `change` edits what is said of each."""
    place = io.BytesIO()
    with zipfile.ZipFile(place, "w", method) as archive:
        for name, data in parts:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if change is not None:
                change(info)
            archive.writestr(info, data)
    return place.getvalue()


def also(name: str, data: bytes = b"x") -> Callable[[Aim], bytes]:
    """An honest checkpoint with one more member."""
    return lambda aim: zipped([*PARTS, (name.format(markers=aim.markers), data)])


def bomb(aim: Aim) -> bytes:
    return zipped([("archive/data.pkl", HONEST), ("archive/data/0", bytes(1 << 26))], method=zipfile.ZIP_DEFLATED)


def overlapping(aim: Aim) -> bytes:
    """The directory's last entry is pointed at the place of the one before."""
    data = bytearray(zipped(PARTS))
    entries = [place for place in range(len(data)) if data[place : place + 4] == b"PK\x01\x02"]
    data[entries[-1] + 42 : entries[-1] + 46] = data[entries[-2] + 42 : entries[-2] + 46]
    return bytes(data)


def twice(aim: Aim) -> bytes:
    """Two members of one name, the second with the payload."""
    data = zipped([*PARTS, ("archive/data.pkX", system(aim, "twice"))])
    return data.replace(b"archive/data.pkX", b"archive/data.pkl")


def misnamed(aim: Aim) -> bytes:
    """What the directory calls data/0 calls itself data.pkl where it stands."""
    return checkpoint(HONEST).replace(b"archive/version", b"archive/vErsion", 1)


def larger(aim: Aim) -> bytes:
    """The directory says that a member has 2 GiB."""
    data = bytearray(zipped(PARTS))
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<2I", 1 << 31, 1 << 31)
    return bytes(data)


def flagged(bit: int) -> Callable[[Aim], bytes]:
    """An honest checkpoint whose directory sets this flag for every member."""

    def made(aim: Aim) -> bytes:
        data = bytearray(zipped(PARTS))
        for place in range(len(data)):
            if data[place : place + 4] == b"PK\x01\x02":
                data[place + 8] |= bit
        return bytes(data)

    return made


def linked(info: zipfile.ZipInfo) -> None:
    info.external_attr = 0o120777 << 16


def comment(aim: Aim) -> bytes:
    data = checkpoint(HONEST)
    payload = system(aim, "comment")
    return data[:-2] + struct.pack("<H", len(payload)) + payload


def many(aim: Aim) -> bytes:
    return zipped([*PARTS, *((f"archive/data/{number}", b"") for number in range(1, 120_000))])


CASES = [
    Case("zip_bomb.pt", "64 MiB of zeros in 64 KiB", "refused", content(bomb)),
    Case("overlap.pt", "two members in one place", "refused", content(overlapping)),
    Case("slip.pt", "a member that leads out of the archive", "refused", content(also("archive/../../{markers}/slip.marker"))),
    Case("absolute.pt", "a member with an absolute name", "refused", content(also("{markers}/absolute.marker"))),
    Case("backslash.pt", "a member that leads out on Windows", "refused", content(also("archive\\..\\..\\x"))),
    Case("two_folders.pt", "members in two folders", "refused", content(also("other/data/1"))),
    Case("unknown_member.pt", "a member that no checkpoint has", "refused", content(also("archive/setup.py"))),
    Case(
        "torchscript.pt", "a TorchScript program", "refused", content(also("archive/code/__torch__.py", b"def forward(): pass"))
    ),
    Case("twice.pt", "two members of one name, the second with os.system", "refused", content(twice), "torch_member"),
    Case("misnamed.pt", "a member with two names", "refused", content(misnamed)),
    Case("larger.pt", "a member that claims 2 GiB", "refused", content(larger)),
    Case("encrypted.pt", "members said to be encrypted", "refused", content(flagged(1))),
    Case("link.pt", "members that are symbolic links", "refused", content(lambda aim: zipped(PARTS, linked))),
    Case("comment.pt", "a pickle in the archive's comment", "refused", content(comment)),
    Case(
        "behind.pt", "a pickle behind the archive", "refused", content(lambda aim: checkpoint(HONEST) + system(aim, "behind"))
    ),
    Case(
        "before.pt",
        "a pickle before an archive",
        "refused",
        content(lambda aim: system(aim, "before") + checkpoint(HONEST)),
        "pickle",
    ),
    Case("many.pt", "120,000 members", "invalid", content(many)),
    Case("cut.pt", "an archive that ends early", "invalid", content(lambda aim: checkpoint(HONEST)[:-30])),
    Case("no_pickle.pt", "an archive without a pickle", "invalid", content(lambda aim: zipped(PARTS[1:]))),
    Case("half.pt", "the first two bytes of an archive", "invalid", content(lambda aim: b"PK")),
    Case("plain.zip", "any zip archive", "invalid", content(lambda aim: zipped([("a.txt", b"x")]))),
]
