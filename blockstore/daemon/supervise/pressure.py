"""What keeps the daemon serving while the host runs out of memory: it is what frees memory then.

A daemon that is swapped out, killed first, or waits in the kernel for pages of its own mount to be written back stops
every VM. Each measure needs privileges; without them it is left out, and said.
"""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path
from typing import Final

OOM_SCORE_ADJUSTMENT: Final = -900
"""Almost everything else is killed before it; not -1000, so that a leak in it has an end."""

LARGEST_HEAP_PIECE_BYTES: Final = 1 << 20
"""Larger pieces go back to the host when they are freed. By default the C library keeps up to 32 MiB of them: the
buffers of a burst of writes stayed for ever."""

FREE_HEAP_BYTES: Final = 1 << 20
"""As much may stay free at the heap's end: what a slice takes to be written comes and goes. With an eighth of that,
the default, every slice asks the host for it again, for a twentieth of all that writing costs."""

TRIM_S: Final = 60.0
"""So often the heap that a burst has used is given back, which takes a millisecond or two. Pages of programs are not:
code that is in use would go as well, and be read from the disk again while VMs wait for it (20 faults, 4 ms)."""

PR_SET_IO_FLUSHER: Final = 57  # include/uapi/linux/prctl.h, prctl(2)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)
_MADV_DONTNEED: Final = 4
_MADV_PAGEOUT: Final = 21  # Linux 5.4
_MLOCK_ONFAULT: Final = 1  # mlock2(2)
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # mlockall(2)


def prepare() -> list[str]:
    """Take all measures for this process, before it has threads; a sentence about those that are not to be had."""
    _libc.mallopt(_M_MMAP_THRESHOLD, LARGEST_HEAP_PIECE_BYTES)
    _libc.mallopt(_M_TRIM_THRESHOLD, FREE_HEAP_BYTES)
    _libc.mallopt(_M_ARENA_MAX, 1)  # one heap: the lane had one of its own, and one thread runs at a time anyway
    missing = []
    if not _lock_memory():
        missing.append("swapped out (mlockall)")
    if not _lower_oom_score():
        missing.append("killed early (oom_score_adj)")
    if _libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0):
        missing.append("made to wait for its own mount (PR_SET_IO_FLUSHER)")
    if not missing:
        return []
    return [
        f"when memory is short the daemon may be {', or '.join(missing)}, for want of privileges; "
        "CAP_SYS_RESOURCE and CAP_IPC_LOCK are what root has, but not in most containers"
    ]


def trim_heap() -> None:
    """Gives back what is free in the midst of the heap, which takes a millisecond or two."""
    _libc.malloc_trim(0)


def shed() -> None:
    """Gives back what only the start has used: free heap, and pages of programs and libraries that nobody asks for any
    more, 10 MB of them. What is needed after all comes back, and is locked then.

    MADV_PAGEOUT leaves alone what other processes have mapped as well, such as the daemon of another mount; so what is
    the file's alone is unmapped here, too, and each of them pays for what it uses. Only these mappings are unlocked for
    it, for what is locked cannot leave: to lock all anew takes as long as the pool is large, and faults wait."""
    trim_heap()
    is_locked = _locked_bytes() > 0
    for start, size_bytes, has_own_pages in _mappings_of_programs():
        place, size = ctypes.c_void_p(start), ctypes.c_size_t(size_bytes)
        if is_locked:
            _libc.munlock(place, size)
        _libc.madvise(place, size, _MADV_PAGEOUT)
        if not has_own_pages:
            _libc.madvise(place, size, _MADV_DONTNEED)
        if is_locked:
            _libc.mlock2(place, size, _MLOCK_ONFAULT)


def _mappings_of_programs() -> list[tuple[int, int, bool]]:
    """Returns start and size in bytes of the mappings of files that are not writable, and whether some of its pages are
    not the file's any more: tables of addresses that were written when the library was loaded (proc_pid_smaps(5))."""
    found: list[tuple[int, int, bool]] = []
    is_program, start, end = False, 0, 0
    with Path("/proc/self/smaps").open() as file:  # line by line: all of it would leave a MB of heap
        for line in file:
            fields = line.split(None, 5)
            if not fields[0].endswith(":"):
                is_program = len(fields) == 6 and fields[5].startswith("/") and fields[1][1] == "-"
                start, end = (int(part, 16) for part in fields[0].split("-"))
            elif fields[0] == "Anonymous:" and is_program:
                found.append((start, end - start, fields[1] != "0"))
    return found


def _locked_bytes() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines.get("VmLck", "0 kB").split()[0]) << 10


def _lock_memory() -> bool:
    """Pages stay once they are there; the pool is mapped whole and sparse, so that nothing may be touched for it."""
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if os.geteuid() and not unlimited:
        return False  # with a limit, some later mmap(2) would fail
    return not _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def _lower_oom_score() -> bool:
    try:
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJUSTMENT))
    except OSError:
        return False
    return True


_libc: Final = ctypes.CDLL(None, use_errno=True)
