"""What QEMU may not ask the kernel for: advice that costs memory, and what post-copy migration needs."""

from __future__ import annotations

import errno
import os
import sys

import pytest

from blockstore.errors import VmError
from blockstore.vm.qemu import qmp_sockets
from blockstore.vm.qemu.monitor import Monitor
from tests.cli.vms.test_run import NAME, nothing_is_left, on
from tests.cli.vms.test_snapshot import RUNS
from tests.daemon.lab import NEEDS_QEMU, Lab, blockstore, run

REFUSED = """
import ctypes, mmap, platform
from blockstore.vm.qemu import refused_calls
libc = ctypes.CDLL(None, use_errno=True)
def called(*arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(*arguments) < 0 else 0
number = {"x86_64": 323, "aarch64": 282}[platform.machine()]
before = called(number, 1 << 19)  # O_CLOEXEC
assert refused_calls.refuse()
memory = mmap.mmap(-1, 1 << 20)
memory.madvise(mmap.MADV_DONTNEED)
try:
    memory.madvise(mmap.MADV_HUGEPAGE)
except OSError as error:
    print(before, error.errno, called(number, 1 << 19))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="without root the kernel allows no filter that setuid programs inherit")
def test_two_calls_are_refused() -> None:
    done = run([sys.executable, "-c", REFUSED])
    assert done.returncode == 0, done
    before, advice, userfaultfd = map(int, done.stdout.split())
    assert (advice, userfaultfd) == (errno.EINVAL, errno.ENOSYS)
    assert before != errno.ENOSYS, "it is the filter that refuses it"


@NEEDS_QEMU
@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="without root the kernel allows no filter that setuid programs inherit")
def test_the_target_of_a_post_copy_migration_refuses_it_before_it_begins(lab: Lab) -> None:
    """Else the source would stop, and the target end."""
    mounted = lab.mount()
    command = ("run", NAME, "--memory", "64M", *on(mounted), "--detach", "--", *RUNS, "-incoming", "defer")
    done = blockstore(*command)
    assert done.returncode == 0, done
    path = qmp_sockets.path_of(mounted.state, qmp_sockets.QMP, (mounted.path / NAME).stat().st_ino)
    with Monitor(path, NAME) as monitor, pytest.raises(VmError, match=r"[Pp]ostcopy"):
        monitor.execute("migrate-set-capabilities", {"capabilities": [{"capability": "postcopy-ram", "state": True}]})
    assert blockstore("stop", "--kill", NAME, *on(mounted)).returncode == 0
    nothing_is_left(mounted)
