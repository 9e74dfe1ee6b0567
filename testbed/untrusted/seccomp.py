"""A filter of system calls (seccomp, Linux): no sockets of any kind, no new processes or programs, no reaching into others.

It closes what Landlock leaves open (UDP, local sockets, starting processes as root; modes, owners, times and attributes of
files; memory and queues shared by name; limits and priorities of other processes) and needs no permission, so that it holds
in containers where namespaces are forbidden. A list of what is denied, in depth behind Landlock, not a wall of its own.
Source: seccomp(2); numbers from the kernel's syscall tables.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_X86_64 = {
    **{"socket": 41, "connect": 42, "sendto": 44, "bind": 49, "listen": 50, "socketpair": 53},
    **{"clone": 56, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "kill": 62, "tkill": 200, "tgkill": 234},
    **{"rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311},
    **{"setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203, "sched_setattr": 314},
    **{"ioprio_set": 251, "migrate_pages": 256, "move_pages": 279, "kcmp": 312, "perf_event_open": 298, "bpf": 321},
    **{"truncate": 76, "chmod": 90, "fchmod": 91, "fchmodat": 268, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260},
    **{"utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190},
    **{"removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "mount": 165, "open_by_handle_at": 304},
    **{"shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220},
    **{"msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241},
    **{"add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "setns": 308, "userfaultfd": 323},
}
_AARCH64 = {
    **{"socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "connect": 203, "sendto": 206},
    **{"clone": 220, "execve": 221, "execveat": 281, "kill": 129, "tkill": 130, "tgkill": 131},
    **{"rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271},
    **{"setpriority": 140, "sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122, "sched_setattr": 274},
    **{"ioprio_set": 30, "migrate_pages": 238, "move_pages": 239, "kcmp": 272, "perf_event_open": 241, "bpf": 280},
    **{"truncate": 45, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88},
    **{"setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16},
    **{"shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "semop": 193, "semctl": 191, "semtimedop": 192},
    **{"msgget": 186, "msgsnd": 189, "msgrcv": 188, "msgctl": 187, "mq_open": 180, "mq_unlink": 181},
    **{"add_key": 217, "request_key": 218, "keyctl": 219, "mount": 40, "unshare": 97, "setns": 268},
    **{"open_by_handle_at": 265, "userfaultfd": 282},
}
DENIED = {"x86_64": _X86_64, "aarch64": _AARCH64}
EVERYWHERE = {
    **{"pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438},
    **{"process_madvise": 440, "process_mrelease": 448},
    **{"fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "file_setattr": 469},
}
"""Newer calls have one number on all machines; io_uring would open files and sockets past the filter."""
LIMITS = {"x86_64": 302, "aarch64": 261}
"""prlimit64: libc reads a process's own limits by it, so that it is denied only where it names a process."""
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000
"""From here on, the same calls by the numbers of another convention of x86_64."""
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, ERROR, END = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER, MACHINE, FIRST = 0, 4, 16
"""Where the filter finds the call's number, the machine, and the lower half of the first argument."""
SECCOMP, FILTER, NO_NEW_PRIVILEGES = 22, 2, 38


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def restrict() -> str:
    """Deny the calls, for good, to this process; returns '' or why that cannot be done here."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in DENIED or sys.maxsize < 2**32:
        return f"no filter of system calls for {sys.platform} on {machine}"
    instructions = program(MACHINES[machine], [*DENIED[machine].values(), *EVERYWHERE.values()], LIMITS[machine])
    filled = _Program(len(instructions) // 8, instructions)
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or library.prctl(SECCOMP, FILTER, ctypes.byref(filled), 0, 0):
        return f"no filter of system calls: {os.strerror(ctypes.get_errno()).lower()}"
    return ""


def program(machine: int, denied: list[int], limits: int) -> bytes:
    """Instructions for the kernel: another machine's calls end the process, these fail with 'not permitted', others pass.

    `limits` is the call that fails unless its first argument is 0.
    """
    tests = [(EQUAL, number) for number in denied] + [(AT_LEAST, X32)]
    lines = [
        (LOAD, 0, 0, MACHINE),
        (EQUAL, 1, 0, machine),
        (RETURN, 0, 0, END),
        (LOAD, 0, 0, NUMBER),
        *((code, len(tests) - place + 3, 0, value) for place, (code, value) in enumerate(tests)),
        (EQUAL, 0, 2, limits),
        (LOAD, 0, 0, FIRST),
        (EQUAL, 0, 1, 0),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ERROR | errno.EPERM),
    ]
    return b"".join(struct.pack("=HBBI", code, true, false, value) for code, true, false, value in lines)
