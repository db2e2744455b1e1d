"""Keeping QEMU from two system calls that do harm on the memory of a store, by a seccomp(2) filter that QEMU inherits.

QEMU advises MADV_HUGEPAGE for all guest memory. The kernel then reads 2 to 4 MiB around each page that is faulted
(do_sync_mmap_readahead() in mm/filemap.c), however small the read-ahead of the file system is: an idle guest that looks
at a hundred pages gets 100 MB back. No other process can take the advice back, and no option keeps QEMU from giving
it. The filter has madvise(2) refuse just this advice, and QEMU does not mind.

Post-copy migration needs userfaultfd(2), which does not work on FUSE: QEMU finds out when the source has stopped
already, and the VM is lost. Where the call is refused, the target refuses the capability before anything has begun.
"""

from __future__ import annotations

import ctypes
import errno
import platform
from typing import Final, NamedTuple

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


class _Machine(NamedTuple):
    """AUDIT_ARCH_*, and the numbers of two system calls."""

    audit: int
    madvise: int
    userfaultfd: int


_MACHINES: Final = {"x86_64": _Machine(0xC000_003E, 28, 323), "aarch64": _Machine(0xC000_00B7, 233, 282)}

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def refuse() -> bool:
    """Has madvise(MADV_HUGEPAGE) and userfaultfd(2) fail from now on, in this process and all that it starts. Returns
    False where that is not to be had.

    Without CAP_SYS_ADMIN the kernel allows a filter only together with no_new_privs, which would break QEMU's setuid
    network helpers: nothing is done then.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    lines = (
        (_LOAD, 0, 0, _MACHINE_AT),
        (_JUMP_IF_EQUAL, 0, 7, machine.audit),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_IF_EQUAL, 4, 0, machine.userfaultfd),
        (_JUMP_IF_EQUAL, 0, 4, machine.madvise),
        (_LOAD, 0, 0, _THIRD_ARGUMENT_AT),
        (_JUMP_IF_EQUAL, 0, 2, _MADV_HUGEPAGE),
        (_RETURN, 0, 0, _SECCOMP_RET_ERRNO | errno.EINVAL),
        (_RETURN, 0, 0, _SECCOMP_RET_ERRNO | errno.ENOSYS),
        (_RETURN, 0, 0, _SECCOMP_RET_ALLOW),
    )
    instructions = (_Instruction * len(lines))(*[_Instruction(*line) for line in lines])
    program = _Program(len(lines), instructions)
    return not _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
