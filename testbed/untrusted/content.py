"""What a file is, by its bytes: names are only believed where they agree."""

from __future__ import annotations

import struct
import zipfile
from typing import IO

from testbed.untrusted.verdict import Unsafe, Wrong

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files begin that torch wrote before its release 1.6: a pickled magic number."""
PROGRAMS = {
    b"\x93NUMPY": "a NumPy array, which may hold pickled objects",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, whose layers may hold code",
    b"\x80": "a bare pickle, which is a program",
    b"BZh": "a compressed file, as joblib writes pickles",
    b"\x1f\x8b": "a compressed file, as joblib writes pickles",
    b"\xfd7zXZ": "a compressed file, as joblib writes pickles",
    b"x\x9c": "a compressed file, as joblib writes pickles",
    b"\x28\xb5\x2f\xfd": "a compressed file",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"#!": "a program",
}
SUFFIXES = {
    **dict.fromkeys((".pkl", ".pickle", ".p", ".joblib", ".dill"), "a pickle, which is a program"),
    **dict.fromkeys((".npy", ".npz"), "a NumPy array, which may hold pickled objects"),
    **dict.fromkeys((".h5", ".hdf5", ".keras"), "a Keras model, whose layers may hold code"),
    **dict.fromkeys((".py", ".so", ".sh", ".pyc"), "a program"),
    ".mar": "a TorchServe archive, which brings its own code",
    ".nemo": "a NeMo archive, whose configuration names code",
}
OTHERS = {
    ".onnx": "an ONNX graph",
    ".gguf": "a quantised GGUF model",
    ".tflite": "a TensorFlow Lite model",
    **dict.fromkeys((".yaml", ".yml", ".json"), "configuration, not weights"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz"), "an archive to be unpacked first"),
}
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar")
ADVICE = "save the state dict with safetensors.torch.save_file on a machine that may run it, and give that file"


def told(file: IO[bytes], size: int, suffix: str) -> str:
    """'safetensors', 'archive' (torch's zip) or 'legacy' (torch before 1.6), which the suffix does not contradict.

    Raises:
        Unsafe: it is or may hold a program, or calls itself something else than it is.
        Wrong: it is nothing that is read.
    """
    if not size:
        raise Wrong("the file is empty")
    file.seek(0)
    start = file.read(512)
    suffix = suffix.lower()
    if suffix in SUFFIXES:
        raise Unsafe(f"it is {SUFFIXES[suffix]}; {ADVICE}")
    kind = _kind(start, size)
    if suffix == ".safetensors" and kind != "safetensors":
        raise Unsafe(
            f"it is called .safetensors and is {'a pickled checkpoint' if kind else 'none'}: a file must be what its name says"
        )
    if kind == "archive" and suffix == ".zip":
        raise Wrong(f"it is called .zip: {OTHERS[suffix]}, or else to be called .pt", ADVICE)
    if kind and suffix in OTHERS and suffix not in PICKLED:
        raise Unsafe(f"it is called {suffix} and is a checkpoint: a file must be what its name says")
    if kind == "safetensors" and _is_archive_too(file):
        raise Unsafe("it is safetensors from its beginning and a zip archive from its end: a file that is two things at once")
    if kind:
        return kind
    for magic, name in PROGRAMS.items():
        if start.startswith(magic):
            raise Unsafe(f"it is {name}; {ADVICE}")
    if start[257:262] == b"ustar":
        raise Unsafe(f"it is a tar archive, as torch wrote pickles before its release 0.1.10; {ADVICE}")
    if _looks_pickled(start):
        raise Unsafe(f"it is a bare pickle, which is a program; {ADVICE}")
    raise Wrong(f"it is {OTHERS.get(suffix, 'neither safetensors nor a checkpoint of torch')}, which is not read", ADVICE)


def _kind(start: bytes, size: int) -> str:
    if start.startswith(b"PK"):
        return "archive"
    if start.startswith(LEGACY):
        return "legacy"
    # A length that the file can hold and an opening brace; what follows is checked by `header`. No pickle begins so.
    length = int.from_bytes(start[:8], "little")
    if size > 9 and start[8:9] == b"{" and (length < size or start[0] != 0x80):
        return "safetensors"
    return ""


def _is_archive_too(file: IO[bytes]) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return bool(archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, struct.error):
        return False


def _looks_pickled(start: bytes) -> bool:
    """Does it begin as protocols 0 and 1 do: a mark, a container, or the name of something to import?"""
    return start[:1] in b"(c]}i" and (b"\n" in start or start[-1:] == b".")
