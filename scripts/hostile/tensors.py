"""Tensors that lie about what the file holds, in checkpoints and in safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from hostile.archives import zipped
from hostile.assembler import (
    FLOATS,
    called,
    checkpoint,
    integer,
    mapping,
    named,
    numbers,
    program,
    several,
    storage,
    tensor,
    text,
)
from hostile.case import Aim, Case, content

ONE = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def only(value: bytes) -> Callable[[Aim], bytes]:
    """A checkpoint of this one tensor."""
    return lambda aim: checkpoint(program(mapping({"w": value})))


def sparse() -> bytes:
    index = tensor(size=(1, 2), stride=(2, 1), place=storage("torch.LongStorage", 2))
    values = tensor(size=(2,), stride=(1,), place=storage(numel=2, key="0"))
    layout = called("torch.serialization._get_layout", text("torch.sparse_coo"))
    return called("torch._utils._rebuild_sparse_tensor", layout, several(index, values, numbers((3,)), b"\x89"))


def quantised() -> bytes:
    scheme = several(named("torch.per_tensor_affine"), b"G" + bytes(8), integer(1 << 30))
    parts = (
        storage("torch.QInt8Storage"),
        integer(0),
        numbers((2, 2)),
        numbers((2, 1)),
        scheme,
        b"\x89",
        called("collections.OrderedDict"),
    )
    return called("torch._utils._rebuild_qtensor", *parts)


def meta() -> bytes:
    return called(
        "torch._utils._rebuild_meta_tensor_no_storage",
        named("torch.float32"),
        numbers((1 << 20, 1 << 20)),
        numbers((1, 1)),
        b"\x89",
    )


def raw(header: bytes, body: bytes = FLOATS) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def safe(entries: Mapping[str, Any], body: bytes = FLOATS) -> bytes:
    return raw(json.dumps(entries).encode(), body)


def said(**changed: Any) -> Callable[[Aim], bytes]:
    """One tensor of which something else is said."""
    return lambda aim: safe({"w": {**ONE["w"], **changed}})


PICKLED = [
    Case("sparse.pt", "a sparse tensor with wild indices", "refused", content(only(sparse()))),
    Case("quantised.pt", "a quantised tensor with a wild zero point", "refused", content(only(quantised()))),
    Case("meta.pt", "a tensor of 4 TiB without numbers", "refused", content(only(meta()))),
    Case("location.pt", "a tensor on a device without numbers", "read", content(only(tensor(place=storage(location="meta"))))),
    Case("storage_lie.pt", "a storage that claims 2^40 numbers", "invalid", content(only(tensor(1 << 40)))),
    Case("stride_0.pt", "2^40 numbers out of one", "refused", content(only(tensor(size=(1 << 20, 1 << 20), stride=(0, 0))))),
    Case(
        "large_stride.pt", "a tensor that reads far behind its storage", "invalid", content(only(tensor(stride=(1 << 40, 1))))
    ),
    Case("offset.pt", "a tensor that begins behind its storage", "invalid", content(only(tensor(offset=1 << 30)))),
    Case("negative_offset.pt", "a tensor that begins before its storage", "invalid", content(only(tensor(offset=-64)))),
    Case("negative_size.pt", "a tensor of negative size", "invalid", content(only(tensor(size=(-1, 4))))),
    Case("overflow.pt", "a tensor of 2^64 numbers", "invalid", content(only(tensor(size=(1 << 32, 1 << 32))))),
    Case(
        "short_storage.pt",
        "a storage shorter than it claims",
        "invalid",
        content(
            lambda aim: zipped(
                [
                    ("a/data.pkl", program(mapping({"w": tensor(64, size=(64,), stride=(1,))}))),
                    ("a/byteorder", b"little"),
                    ("a/data/0", FLOATS),
                    ("a/version", b"3\n"),
                ]
            )
        ),
    ),
    Case(
        "no_storage.pt",
        "a storage that is not there",
        "invalid",
        content(lambda aim: checkpoint(program(mapping({"w": tensor()})), {})),
    ),
    Case(
        "many_names.pt",
        "one storage of 16 bytes named 1,000 times",
        "refused",
        content(lambda aim: checkpoint(program(mapping({f"w{number}": tensor() for number in range(1000)})))),
    ),
    Case(
        "escape_name.pt",
        "a tensor whose name clears the screen",
        "invalid",
        content(lambda aim: checkpoint(program(mapping({"\x1b[2J": tensor()})))),
    ),
    Case(
        "no_tensors.pt",
        "a checkpoint without tensors",
        "invalid",
        content(lambda aim: checkpoint(program(mapping({"a": text("b")})))),
    ),
]
SAFE = [
    Case(
        "huge_header.safetensors",
        "a header of 2^40 bytes",
        "refused",
        content(lambda aim: (1 << 40).to_bytes(8, "little") + b" " * 64),
    ),
    Case(
        "long_header.safetensors",
        "a header longer than the file",
        "invalid",
        content(lambda aim: (1 << 40).to_bytes(8, "little") + b"{}" * 64),
    ),
    Case("cut.safetensors", "a file that ends early", "invalid", content(lambda aim: safe(ONE, FLOATS[:-1]))),
    Case("behind.safetensors", "bytes behind the tensors", "invalid", content(lambda aim: safe(ONE, FLOATS + b"hidden"))),
    Case(
        "archive_behind.safetensors",
        "safetensors from its beginning, a zip archive from its end",
        "refused",
        content(lambda aim: polyglot()),
    ),
    Case("overlap.safetensors", "two tensors in one place", "invalid", content(lambda aim: safe({**ONE, "v": ONE["w"]}))),
    Case(
        "gap.safetensors",
        "bytes that belong to no tensor",
        "invalid",
        content(lambda aim: safe({"w": {**ONE["w"], "shape": [2, 1], "data_offsets": [8, 16]}})),
    ),
    Case(
        "twice.safetensors",
        "one name twice",
        "invalid",
        content(lambda aim: raw(b"{" + b", ".join([json.dumps(ONE).encode()[1:-1]] * 2) + b"}")),
    ),
    Case("overflow.safetensors", "a shape of 2^64 numbers", "invalid", content(said(shape=[1 << 32, 1 << 32]))),
    Case("wrap.safetensors", "a shape that wraps around to fit", "invalid", content(said(shape=[(1 << 62) + 1, 4]))),
    Case("negative.safetensors", "negative offsets", "invalid", content(said(data_offsets=[-16, 0]))),
    Case("fraction.safetensors", "a shape that is no whole number", "invalid", content(said(shape=[2.0, 2]))),
    Case("truth.safetensors", "a shape of truth values", "invalid", content(said(shape=[True, 4]))),
    Case("type.safetensors", "a type that does not exist", "invalid", content(said(dtype="OBJECT"))),
    Case("extra.safetensors", "more keys than a tensor has", "invalid", content(said(_target_="os.system"))),
    Case("bytes.safetensors", "a header that is no UTF-8", "invalid", content(lambda aim: raw(b'{"\xff\xfe": 1}'))),
    Case(
        "deep.safetensors",
        "a header of 100,000 lists in one another",
        "invalid",
        content(lambda aim: raw(b'{"w": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
    ),
    Case("nan.safetensors", "a header with NaN", "invalid", content(lambda aim: raw(b'{"w": NaN}'))),
    Case(
        "digits.safetensors",
        "a number of a million digits",
        "invalid",
        content(lambda aim: raw(b'{"w": ' + b"9" * 1_000_000 + b"}")),
    ),
    Case(
        "metadata.safetensors",
        "metadata that are no texts",
        "invalid",
        content(lambda aim: safe({**ONE, "__metadata__": {"a": {"b": 1}}})),
    ),
    Case("none.safetensors", "no tensor at all", "invalid", content(lambda aim: raw(b"{}", b""))),
    Case(
        "escape.safetensors",
        "metadata that clear the screen",
        "read",
        content(lambda aim: safe({**ONE, "__metadata__": {"a": "\x1b[2J\u202e"}})),
    ),
    Case(
        "escape_name.safetensors",
        "a tensor whose name turns the line around",
        "invalid",
        content(lambda aim: safe({"\u202egnp": ONE["w"]})),
    ),
    Case(
        "long_name.safetensors",
        "a name of a million characters",
        "invalid",
        content(lambda aim: safe({"w" * 1_000_000: ONE["w"]})),
    ),
]


def polyglot() -> bytes:
    archive = zipped([("payload.txt", b"x")])
    return safe({"w": {"dtype": "U8", "shape": [len(archive)], "data_offsets": [0, len(archive)]}}, archive)


CASES = [*PICKLED, *SAFE]
