"""How a VM ends: it is asked to shut down, or ended at once; and whether it has."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import Final

from blockstore.daemon.host.mounts import Mount
from blockstore.errors import VmError
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


def kill(vm: Running) -> None:
    """Ends QEMU, which writes to its disks what it has to (qemu(1), SIGTERM), or kills it if it does not end."""
    with _process(vm) as process:
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGTERM)
        if not has_ended(process, KILL_S):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            has_ended(process, KILL_S)


def wait(mount: Mount, vm: Running, timeout_s: float | None) -> None:
    """Returns when the VM has ended, and what `run` has made for it is gone. Raises VmError if it takes longer."""
    with _process(vm) as process:
        if process is not None and not has_ended(process, timeout_s):
            raise VmError(f"{vm.name} has not ended within {timeout_s:g} s")
    deadline = time.monotonic() + CLEANED_S
    while vm.is_own and _is_there(mount, vm) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)


def has_ended(process: int, timeout_s: float | None) -> bool:
    """Returns whether the process of this pidfd ends within the time; None is for ever."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def _is_there(mount: Mount, vm: Running) -> bool:
    """A file of --keep stays, and its VM's monitor does not."""
    return vm.path.exists() and vm.socket.exists()


@contextlib.contextmanager
def _process(vm: Running) -> Iterator[int | None]:
    """Yields a pidfd of the VM's QEMU, None if that has ended."""
    try:
        process = os.pidfd_open(vm.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield process
    finally:
        os.close(process)
