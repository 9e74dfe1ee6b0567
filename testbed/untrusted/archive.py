"""torch's zip format, checked whole before torch reads it: stored members only, each once, in a folder of their own."""

from __future__ import annotations

import re
import struct
import zipfile
from typing import IO

from testbed.untrusted import limits
from testbed.untrusted.plain import printable
from testbed.untrusted.verdict import Unsafe, Wrong

END, END_64 = 22, 56 + 20
LOCAL = struct.Struct("<4s5H3I2H")
MEMBER = re.compile(
    r"[^/\\\x00-\x1f]{1,200}/(data\.pkl|data/[0-9]{1,9}|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)"
)
CODE = re.compile(r"[^/]+/(code/|constants\.pkl|constants/|attributes\.pkl)")
SYMLINK = 0o120000


def checked(file: IO[bytes], size: int) -> tuple[bytes, int]:
    """The pickle in a checkpoint, and the bytes of its tensors.

    Raises:
        Unsafe: members that overlap, are compressed, encrypted, links, there twice, or go by names that no checkpoint has;
            bytes before, between or behind them; a TorchScript program.
        Wrong: no whole zip archive.
    """
    _check_ends(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members)
            _check_places(file, members, archive.start_dir)
            pickle = next((member for member in members if member.filename.endswith("/data.pkl")), None)
            if pickle is None:
                raise Wrong("the zip archive holds no data.pkl: no checkpoint of torch")
            if pickle.file_size > limits.PROGRAM:
                raise Wrong(f"its data.pkl has {pickle.file_size} bytes; at most {limits.PROGRAM} are read")
            return archive.read(pickle), sum(member.file_size for member in members if "/data/" in member.filename)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, struct.error, ValueError, OverflowError) as error:
        raise Wrong(f"the zip archive is damaged ({printable(str(error), 120)})") from error


def _check_ends(file: IO[bytes], size: int) -> None:
    """The directory must stand right at the end, as torch writes it: what is behind it, other readers would see."""
    file.seek(max(0, size - END))
    end = file.read(END)
    if len(end) < END or not end.startswith(b"PK\x05\x06"):
        if size > END and _has_directory(file, size):
            raise Unsafe("something stands behind the zip archive's directory: a file that is two things at once")
        raise Wrong("the zip archive has no directory at its end: truncated?")
    length, offset, comment = struct.unpack("<2IH", end[12:])
    if comment:
        raise Unsafe("the zip archive has a comment: a file that is two things at once")
    if offset == 0xFFFFFFFF or length == 0xFFFFFFFF or _has_64(file, size):
        file.seek(max(0, size - END - END_64))
        length, offset = struct.unpack("<2Q", file.read(56)[40:56])
        directory = size - END - END_64
    else:
        directory = size - END
    if offset + length != directory:
        raise Unsafe(f"the zip archive's directory should end at byte {offset + length} and ends at {directory}")


def _has_directory(file: IO[bytes], size: int) -> bool:
    file.seek(max(0, size - 70_000))
    return b"PK\x05\x06" in file.read()


def _has_64(file: IO[bytes], size: int) -> bool:
    file.seek(max(0, size - END - 20))
    return file.read(4) == b"PK\x06\x07"


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    if not 0 < len(members) <= limits.MEMBERS:
        raise Wrong(f"the zip archive has {len(members)} members; at most {limits.MEMBERS} are read")
    names = {member.filename for member in members}
    if len(names) < len(members):
        raise Unsafe("two members of the zip archive have the same name: readers may take either")
    if len({name.partition("/")[0] for name in names}) > 1:
        raise Unsafe("the members of the zip archive are not in one folder")
    for member in members:
        shown = printable(member.orig_filename, 80)
        if CODE.match(member.filename):
            raise Unsafe("it is a TorchScript archive, which is a program; save the state dict instead")
        if member.orig_filename != member.filename or not MEMBER.fullmatch(member.filename):
            raise Unsafe(f"the zip archive has a member called {shown!r}, which no checkpoint has")
        if member.filename.split("/")[0] in (".", ".."):
            raise Unsafe(f"the zip archive has a member called {shown!r}, which leads out of it")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise Unsafe(f"{shown} in the zip archive is compressed, which no checkpoint of torch is")
        if member.flag_bits & 0x1:
            raise Unsafe(f"{shown} in the zip archive is encrypted")
        if (member.external_attr >> 16) & 0o170000 == SYMLINK:
            raise Unsafe(f"{shown} in the zip archive is a symbolic link")


def _check_places(file: IO[bytes], members: list[zipfile.ZipInfo], directory: int) -> None:
    """One member after another from byte 0 to the directory, each where and as large as the directory says."""
    last = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        shown = printable(member.filename, 80)
        if member.header_offset < last:
            raise Unsafe(f"{shown} in the zip archive lies over another member")
        if member.header_offset > last + 24:  # a data descriptor may stand between
            raise Unsafe(f"something is hidden before {shown} in the zip archive")
        file.seek(member.header_offset)
        start = LOCAL.unpack(file.read(LOCAL.size))
        name = file.read(start[9])
        if start[0] != b"PK\x03\x04" or name != member.filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437"):
            raise Unsafe(f"{shown} in the zip archive is called otherwise where it stands than in the directory")
        if start[3] != zipfile.ZIP_STORED or start[8] not in (member.file_size, 0, 0xFFFFFFFF):
            raise Unsafe(f"{shown} in the zip archive has another size or method where it stands than in the directory")
        last = member.header_offset + LOCAL.size + start[9] + start[10] + member.compress_size
    if not last <= directory <= last + 24:
        raise Unsafe("something is hidden between the members of the zip archive and its directory")
