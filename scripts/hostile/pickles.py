"""Pickles whose payload is a call: of every protocol, in every wrapping, by every instruction that imports."""

from __future__ import annotations

import builtins
import gzip
import io
import os
import pickle
import socket
import struct
import tarfile
import zlib
from typing import Any

import numpy as np

from hostile.assembler import (
    END,
    HEAD,
    called,
    checkpoint,
    integer,
    mapping,
    named,
    program,
    several,
    storage,
    tensor,
    text,
    weights,
)
from hostile.case import Aim, Case, content

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Call:
    """Pickles as a call of the function; that it can be called itself makes it fit where a function must stand."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __call__(self) -> None: ...

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def system(aim: Aim, name: str, protocol: int = 2) -> bytes:
    """A pickle that makes the marker through os.system."""
    return pickle.dumps({"w": Call(os.system, aim.command(name))}, protocol)


def legacy(body: bytes) -> bytes:
    """torch's format before its release 1.6 around this pickle."""
    own = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    return b"".join(pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, own)) + body + pickle.dumps([], 2)


def tar(aim: Aim) -> bytes:
    place = io.BytesIO()
    with tarfile.open(fileobj=place, mode="w") as archive:
        for name, data in (
            ("storages", pickle.dumps(0, 2) + pickle.dumps([], 2)),
            ("tensors", pickle.dumps(0, 2)),
            ("pickle", system(aim, "legacy_tar")),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return place.getvalue()


def array(aim: Aim, name: str) -> bytes:
    place = io.BytesIO()
    np.save(place, np.array([Call(os.system, aim.command(name))], dtype=object), allow_pickle=True)
    return place.getvalue()


def arrays(aim: Aim, name: str) -> bytes:
    place = io.BytesIO()
    np.savez(place, a=np.array([Call(os.system, aim.command(name))], dtype=object))
    return place.getvalue()


def getattr_chain(aim: Aim) -> bytes:
    found = Call(getattr, Call(builtins.__import__, "os"), "system")
    return pickle.dumps(Call(found, aim.command("getattr_chain")), 2)


def opcode(aim: Aim, name: str) -> bytes:
    """The same call by another instruction than GLOBAL and REDUCE."""
    command = aim.command(name).encode()
    short = b"\x8c" + bytes([len(command)]) + command
    return {
        "inst": b"(S'" + command + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'" + command + b"'\no.",
        "stack_global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + short + b"\x85R.",
        "newobj_ex": b"\x80\x04cos\nsystem\n" + short + b"\x85}\x92.",
        "extension": HEAD + b"\x82\x01)R.",
    }[name]


def nested(times: int) -> bytes:
    return program(b"]" * times + b"a" * (times - 1))


def doubled(times: int) -> bytes:
    """A list of two of the list before, and so on: short in the file, 2^times long when walked."""
    body = b"]q\x00"
    for turn in range(times):
        body = b"](" + body + b"h" + bytes([turn]) + b"eq" + bytes([turn + 1])
    return body


def gadget(name: str, *arguments: bytes) -> bytes:
    return checkpoint(program(mapping({"w": called(name, *arguments)})))


def knock(aim: Aim, kind: str) -> bytes:
    if kind == "tcp":
        return pickle.dumps(Call(socket.create_connection, ("127.0.0.1", aim.port)), 2)
    code = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'!', ('127.0.0.1', {aim.port}))"
    return pickle.dumps(Call(exec, code), 2)


RAW = [
    Case(f"protocol_{number}.pt", f"os.system in a bare pickle of protocol {number}", "refused", make, "pickle")
    for number in range(6)
    for make in [content(lambda aim, number=number: system(aim, f"protocol_{number}", number))]
]
ZIPPED = [
    Case(f"zip_protocol_{number}.pt", f"os.system in torch's zip, protocol {number}", "refused", make, "torch")
    for number in range(6)
    for make in [content(lambda aim, number=number: checkpoint(system(aim, f"zip_protocol_{number}", number)))]
]
INSTRUCTIONS = [
    Case(f"{name}.pkl.pt", f"os.system through the instruction {name.upper()}", "refused", make, careless)
    for name, careless in (
        ("inst", "pickle"),
        ("obj", "pickle"),
        ("stack_global", "pickle"),
        ("newobj_ex", ""),
        ("extension", ""),
    )
    for make in [content(lambda aim, name=name: checkpoint(opcode(aim, name)) if name == "newobj_ex" else opcode(aim, name))]
]
WRAPPED = [
    Case(
        "legacy.pth",
        "os.system in torch's format before 1.6",
        "refused",
        content(lambda aim: legacy(system(aim, "legacy"))),
        "torch",
    ),
    Case("legacy_tar.pt", "os.system in torch's tar format", "refused", content(tar), "torch"),
    Case(
        "pytorch_model.bin", "os.system where transformers looks", "refused", content(lambda aim: system(aim, "bin")), "pickle"
    ),
    Case("object.npy", "os.system in a NumPy array of objects", "refused", content(lambda aim: array(aim, "npy")), "numpy"),
    Case("object.npz", "os.system in a NumPy archive of objects", "refused", content(lambda aim: arrays(aim, "npz")), "numpy"),
    Case("array.pt", "a NumPy array of objects called .pt", "refused", content(lambda aim: array(aim, "array")), "numpy"),
    Case("model.pkl", "os.system in a file called .pkl", "refused", content(lambda aim: system(aim, "pkl")), "pickle"),
    Case("model.joblib", "os.system in a file called .joblib", "refused", content(lambda aim: system(aim, "joblib")), "pickle"),
    Case("joblib.pt", "a compressed pickle", "refused", content(lambda aim: zlib.compress(system(aim, "zlib")))),
    Case("gzip.pt", "a compressed pickle", "refused", content(lambda aim: gzip.compress(system(aim, "gzip")))),
    Case("model.safetensors", "a pickle called .safetensors", "refused", content(lambda aim: system(aim, "called")), "pickle"),
    Case("keras.h5", "the head of an HDF5 file", "refused", content(lambda aim: b"\x89HDF\r\n\x1a\n" + bytes(64))),
]
GADGETS = [
    Case("getattr_chain.pt", "getattr(__import__('os'), 'system')", "refused", content(getattr_chain), "pickle"),
    Case("exec.pt", "builtins.exec", "refused", content(lambda aim: gadget("builtins.exec", text(aim.code("exec")))), "torch"),
    Case("eval.pt", "builtins.eval", "refused", content(lambda aim: gadget("builtins.eval", text(aim.code("eval")))), "torch"),
    Case(
        "exec_wrapper.pt",
        "exec by a function of torch's own",
        "refused",
        content(lambda aim: gadget("torch.jit.unsupported_tensor_ops.execWrapper", text(aim.code("wrapper")), b"}", b"}")),
        "torch",
    ),
    Case(
        "runstring.pt",
        "exec by a function of NumPy's",
        "refused",
        content(lambda aim: gadget("numpy.testing._private.utils.runstring", text(aim.code("runstring")), b"}")),
        "torch",
    ),
    Case(
        "load_again.pt",
        "torch.load of a sibling, unsafely",
        "refused",
        content(lambda aim: gadget("torch.load", text("exec.pt"))),
    ),
    Case(
        "hub.pt",
        "torch.hub.load from an address",
        "refused",
        content(lambda aim: gadget("torch.hub.load", text("a/b"), text("c"))),
    ),
    Case("shared_library.pt", "a shared library", "refused", content(lambda aim: gadget("ctypes.CDLL", text("/tmp/none.so")))),
    Case(
        "whole_module.pt",
        "a pickled module, not its weights",
        "refused",
        content(lambda aim: gadget("torch.nn.modules.linear.Linear", integer(2), integer(2))),
    ),
    Case(
        "nul_name.pt",
        "a name with an escape for terminals in it",
        "refused",
        content(lambda aim: gadget("os.\x1b[2Jsystem", text("x"))),
    ),
    Case("tcp.pt", "a TCP connection", "refused", content(lambda aim: knock(aim, "tcp")), "pickle"),
    Case("udp.pt", "a UDP packet", "refused", content(lambda aim: knock(aim, "udp")), "pickle"),
    Case(
        "url.pt",
        "urllib.request.urlopen",
        "refused",
        content(lambda aim: gadget("urllib.request.urlopen", text(f"http://127.0.0.1:{aim.port}/"), b"N", b"K\x01")),
        "torch",
    ),
    Case(
        "storage_type.pt",
        "os.system as the type of a storage",
        "refused",
        content(lambda aim: checkpoint(program(storage("os.system")))),
    ),
    Case(
        "codec.pt",
        "_codecs.encode with a codec of its own",
        "invalid",
        content(lambda aim: gadget("_codecs.encode", text("x"), text("os"))),
    ),
]
IDENTITIES = [
    Case(
        "persistent_text.pt",
        "a persistent id that is a text",
        "invalid",
        content(lambda aim: checkpoint(program(text("evil") + b"Q"))),
    ),
    Case("persistent_line.pt", "a persistent id of protocol 0", "refused", content(lambda aim: checkpoint(b"Pevil\n."))),
    Case(
        "persistent_module.pth",
        "a persistent id that makes torch look for sources",
        "invalid",
        content(
            lambda aim: legacy(program(several(text("module"), named("torch.Size"), text("/etc/passwd"), text("x")) + b"Q"))
        ),
    ),
]
BOMBS = [
    Case("memo_bomb.pt", "a list of 2^60 elements by memo", "invalid", content(lambda aim: weights(extra=doubled(60)))),
    Case(
        "big_number.pt",
        "a number of 2^24 bits by LONG4",
        "refused",
        content(lambda aim: checkpoint(HEAD + b"\x8b" + struct.pack("<i", 1 << 21) + b"\x7f" * (1 << 21) + END)),
    ),
    Case(
        "number_line.pt",
        "a number of a million digits in text",
        "invalid",
        content(lambda aim: checkpoint(b"L" + b"9" * 1_000_000 + b"L\n.")),
    ),
    Case("deep.pt", "100,000 lists in one another", "invalid", content(lambda aim: checkpoint(nested(100_000)))),
    Case(
        "long_text.pt",
        "a text that claims 4 GiB",
        "invalid",
        content(lambda aim: checkpoint(HEAD + b"X\xff\xff\xff\xff" + END)),
    ),
    Case(
        "cut_pickle.pt",
        "a pickle that ends early",
        "invalid",
        content(lambda aim: checkpoint(program(mapping({"w": tensor()}))[:-40])),
    ),
    Case("no_stop.pt", "a pickle without an end", "invalid", content(lambda aim: checkpoint(HEAD + b"]" * 10))),
    Case("memo_hole.pt", "a memo that was never filled", "invalid", content(lambda aim: checkpoint(program(b"h\x07")))),
    Case(
        "two_pickles.pt",
        "os.system in a second pickle",
        "refused",
        content(lambda aim: checkpoint(program(mapping({"w": tensor()})) + system(aim, "second"))),
    ),
    Case(
        "large_value.pt",
        "a number of 2,000 bits beside the weights",
        "read",
        content(lambda aim: weights(epoch=b"\x8a\xfa" + b"\x7f" * 250)),
    ),
    Case(
        "dictionary.pt",
        "attributes set on an OrderedDict",
        "read",
        content(lambda aim: weights(extra=called("collections.OrderedDict") + mapping({"update": text("x")}) + b"b")),
    ),
]
LIGHTNING = [
    Case(
        "instantiator.ckpt",
        "hyper-parameters of Lightning that name code",
        "read",
        content(
            lambda aim: weights(
                hyper_parameters=mapping({"_instantiator": text("os.system"), "command": text(aim.command("lightning"))})
            )
        ),
    ),
    Case(
        "hyper_parameters.ckpt",
        "a pickled object among Lightning's hyper-parameters",
        "refused",
        content(lambda aim: weights(hyper_parameters=called("os.system", text(aim.command("hyper"))))),
        "torch",
    ),
]
CASES = [*RAW, *ZIPPED, *INSTRUCTIONS, *WRAPPED, *GADGETS, *IDENTITIES, *BOMBS, *LIGHTNING]
