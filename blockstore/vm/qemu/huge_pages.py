"""Keeping QEMU from asking for huge pages on the memory of its guest.

QEMU advises MADV_HUGEPAGE for all guest memory. The kernel then reads 2 to 4 MiB around each page that is faulted
(do_sync_mmap_readahead() in mm/filemap.c), however small the read-ahead of the file system is: an idle guest that looks
at a hundred pages gets 100 MB back. No other process can take the advice back, and no option keeps QEMU from giving
it. So a seccomp(2) filter, which QEMU inherits, has madvise(2) refuse just this advice. QEMU does not mind.
"""

from __future__ import annotations

import ctypes
import errno
import platform
from typing import Final

_MADV_HUGEPAGE: Final = 14

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_SECCOMP_RET_ERRNO: Final = 0x0005_0000
_SECCOMP_RET_ALLOW: Final = 0x7FFF_0000

# struct seccomp_data: the system call's number at 0, the machine at 4, the arguments from 16 on, 8 bytes each.
_NUMBER_AT, _MACHINE_AT, _THIRD_ARGUMENT_AT = 0, 4, 32

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_MACHINES: Final = {"x86_64": (0xC000_003E, 28), "aarch64": (0xC000_00B7, 233)}
"""AUDIT_ARCH_* and the number of madvise(2)."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def refuse() -> bool:
    """From now on, in this process and all that it starts, madvise(MADV_HUGEPAGE) fails. False where that is not to be
    had.

    Without CAP_SYS_ADMIN the kernel allows a filter only together with no_new_privs, which would break QEMU's setuid
    network helpers: nothing is done then.
    """
    if platform.machine() not in _MACHINES:
        return False
    machine, madvise = _MACHINES[platform.machine()]
    lines = (
        (_LOAD, 0, 0, _MACHINE_AT),
        (_JUMP_IF_EQUAL, 0, 5, machine),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_IF_EQUAL, 0, 3, madvise),
        (_LOAD, 0, 0, _THIRD_ARGUMENT_AT),
        (_JUMP_IF_EQUAL, 0, 1, _MADV_HUGEPAGE),
        (_RETURN, 0, 0, _SECCOMP_RET_ERRNO | errno.EINVAL),
        (_RETURN, 0, 0, _SECCOMP_RET_ALLOW),
    )
    instructions = (_Instruction * len(lines))(*[_Instruction(*line) for line in lines])
    program = _Program(len(lines), instructions)
    return not _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
