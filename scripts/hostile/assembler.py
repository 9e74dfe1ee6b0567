"""Pickles put together instruction by instruction, without running or importing anything, and torch's zip around them."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence

HEAD, END = b"\x80\x02", b"."
FLOATS = struct.pack("<4f", 1, 2, 3, 4)


def integer(number: int) -> bytes:
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    length = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + number.to_bytes(length, "little", signed=True)


def text(words: str) -> bytes:
    encoded = words.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def several(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def called(name: str, *arguments: bytes) -> bytes:
    return named(name) + several(*arguments) + b"R"


def mapping(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def numbers(values: Sequence[int]) -> bytes:
    return several(*map(integer, values))


def storage(kind: str = "torch.FloatStorage", numel: int = 4, key: str = "0", location: str = "cpu") -> bytes:
    return several(text("storage"), named(kind), text(key), text(location), integer(numel)) + b"Q"


def tensor(
    numel: int = 4, *, offset: int = 0, size: Sequence[int] = (2, 2), stride: Sequence[int] = (2, 1), place: bytes = b""
) -> bytes:
    hooks = called("collections.OrderedDict")
    parts = (place or storage(numel=numel), integer(offset), numbers(size), numbers(stride), b"\x89", hooks)
    return called("torch._utils._rebuild_tensor_v2", *parts)


def program(body: bytes) -> bytes:
    return HEAD + body + END


def checkpoint(body: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """torch's zip with this pickle and these storages."""
    place = io.BytesIO()
    with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/byteorder", b"little")
        for key, data in ({"0": FLOATS} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", b"3\n")
    return place.getvalue()


def weights(**extra: bytes) -> bytes:
    """An honest checkpoint, with something beside its state dict."""
    return checkpoint(program(mapping({"state_dict": mapping({"w": tensor()}), **extra})))
