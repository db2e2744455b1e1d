"""How a VM ends: it is asked to shut down, or ended at once; and whether it has."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Final

from blockstore.daemon.host.mounts import Mount, mappings_of
from blockstore.daemon.host.process_stat import has_ended
from blockstore.vm.qemu.running import Running

KILL_S: Final = 10.0
"""How long QEMU may take to end when it is told to; then it is killed."""

CLEANED_S: Final = 10.0
"""How long the shell around QEMU may take to remove its file."""

_LOOK_S: Final = 0.02


def ask_to_shut_down(vm: Running) -> None:
    """Presses the power button of the guest (QMP, system_powerdown). Raises VmError."""
    from blockstore.vm.qemu.monitor import Monitor  # asyncio, only where it is needed

    with Monitor(vm.socket, vm.name) as monitor:
        monitor.execute("system_powerdown")


@contextlib.contextmanager
def processes(mount: Mount, vms: Sequence[Running]) -> Iterator[list[int | None]]:
    """Yields a pidfd of each VM's QEMU, None of one that has ended: to be had before anything is waited for, as a
    number may be another process's later."""
    with contextlib.ExitStack() as stack:
        found: list[int | None] = []
        for vm in vms:
            try:
                process = os.pidfd_open(vm.pid)
            except ProcessLookupError:
                found.append(None)
                continue
            stack.callback(os.close, process)
            found.append(process if _has_mapped(mount, vm) else None)
        yield found


def kill(process: int | None) -> None:
    """Ends QEMU, which writes to its disks what it has to (qemu(1), SIGTERM), or kills it if it does not end."""
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGTERM)
    if not has_ended(process, KILL_S):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        has_ended(process, KILL_S)


def wait(mount: Mount, vm: Running, process: int | None, timeout_s: float | None) -> bool:
    """Returns whether the VM ends within the time, after what `run` has made for it is gone; None is for ever."""
    if process is not None and not has_ended(process, timeout_s):
        return False
    deadline = time.monotonic() + CLEANED_S
    while vm.is_own and _is_there(vm) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return True


def _has_mapped(mount: Mount, vm: Running) -> bool:
    try:
        return any(each.inode == vm.volume for each in mappings_of(vm.pid, mount))
    except OSError:
        return False


def _is_there(vm: Running) -> bool:
    """A file of --keep stays, and its VM's monitor does not."""
    return vm.path.exists() and vm.socket.exists()
