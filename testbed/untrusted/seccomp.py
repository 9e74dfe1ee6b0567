"""A filter of system calls (seccomp, Linux): no sockets of any kind, no new processes or programs, no reaching into others.

It closes what Landlock leaves open (UDP, local sockets, starting processes as root) and needs no permission, so that it
holds in containers where namespaces are forbidden. A list of what is denied, in depth behind Landlock, not a wall of its own.
Source: seccomp(2); numbers from the kernel's syscall tables.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

DENIED = {
    "x86_64": {
        **{"socket": 41, "connect": 42, "sendto": 44, "bind": 49, "listen": 50, "socketpair": 53, "clone": 56, "fork": 57},
        **{
            "vfork": 58,
            "execve": 59,
            "kill": 62,
            "ptrace": 101,
            "mount": 165,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
        },
        **{"unshare": 272, "perf_event_open": 298, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310},
        **{"process_vm_writev": 311, "bpf": 321, "execveat": 322, "userfaultfd": 323},
    },
    "aarch64": {
        **{
            "mount": 40,
            "unshare": 97,
            "ptrace": 117,
            "kill": 129,
            "socket": 198,
            "socketpair": 199,
            "bind": 200,
            "listen": 201,
        },
        **{"connect": 203, "sendto": 206, "add_key": 217, "request_key": 218, "keyctl": 219, "clone": 220, "execve": 221},
        **{"perf_event_open": 241, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271},
        **{"bpf": 280, "execveat": 281, "userfaultfd": 282},
    },
}
EVERYWHERE = {"pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435}
"""Newer calls have one number on all machines; io_uring would open files and sockets past the filter."""
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000
"""From here on, the same calls by the numbers of another convention of x86_64."""
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, ERROR, END = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER, MACHINE = 0, 4
SECCOMP, FILTER, NO_NEW_PRIVILEGES = 22, 2, 38


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def restrict() -> str:
    """Deny the calls, for good, to this process; returns '' or why that cannot be done here."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in DENIED or sys.maxsize < 2**32:
        return f"no filter of system calls for {sys.platform} on {machine}"
    instructions = program(MACHINES[machine], [*DENIED[machine].values(), *EVERYWHERE.values()])
    filled = _Program(len(instructions) // 8, instructions)
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or library.prctl(SECCOMP, FILTER, ctypes.byref(filled), 0, 0):
        return f"no filter of system calls: {os.strerror(ctypes.get_errno()).lower()}"
    return ""


def program(machine: int, denied: list[int]) -> bytes:
    """Instructions for the kernel: another machine's calls end the process, these fail with 'not permitted', others pass."""
    tests = [(EQUAL, number) for number in denied] + [(AT_LEAST, X32)]
    lines = [
        (LOAD, 0, 0, MACHINE),
        (EQUAL, 1, 0, machine),
        (RETURN, 0, 0, END),
        (LOAD, 0, 0, NUMBER),
        *((code, len(tests) - place, 0, value) for place, (code, value) in enumerate(tests)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ERROR | errno.EPERM),
    ]
    return b"".join(struct.pack("=HBBI", code, true, false, value) for code, true, false, value in lines)
