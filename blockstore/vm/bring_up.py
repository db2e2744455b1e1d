"""A VM that waits for its device state (-incoming defer) is given that of a snapshot, and goes on from there."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from blockstore.errors import BlockstoreError
from blockstore.vm import apart, qmp_sockets
from blockstore.vm.process_stat import children

START_S: Final = 60.0
"""QEMU's own start, until it speaks QMP: a quarter of a second, on a host that is busy or swaps many times that."""

LOAD_S: Final = 30.0

INCOMING: Final = ("-incoming", "defer")

_DESCRIPTOR: Final = "blockstore-device-state"


def bring_up(state: Path, volume: int, vm: str, device_state: int) -> None:
    """Load it and let the VM go on; `device_state` is a file. Raises VmError."""
    from blockstore.vm.monitor import Monitor  # while QEMU starts, not before
    from blockstore.vm.running import IGNORE_SHARED

    with Monitor(qmp_sockets.path_of(state, qmp_sockets.QMP, volume), vm, greeting_s=START_S) as monitor:
        capability = {"capability": IGNORE_SHARED, "state": True}
        monitor.execute("migrate-set-capabilities", {"capabilities": [capability]})
        monitor.pass_descriptor(device_state, _DESCRIPTOR)
        monitor.execute("migrate-incoming", {"uri": f"fd:{_DESCRIPTOR}"})
        monitor.wait_for_migration(LOAD_S)
        monitor.execute("migrate-set-capabilities", {"capabilities": [{**capability, "state": False}]})
        monitor.execute("cont")


def beside(state: Path, vm: str, device_state: int) -> Callable[[int], None]:
    """What `runner.run` is to call before it becomes QEMU's shell: starts a process that brings the VM up. When that
    fails, QEMU is killed, and so the exit code is not 0."""

    def start(volume: int) -> None:
        shell = os.getpid()
        apart.fork([2, device_state], lambda: _bring_up_or_kill(state, volume, vm, device_state, shell))

    return start


def opened(content: bytes) -> int:
    """A file with a device state; the descriptor."""
    descriptor = os.memfd_create(_DESCRIPTOR)
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor


def another(device_state: int) -> int:
    """The same file, with a position of its own, at its beginning."""
    return os.open(f"/proc/self/fd/{device_state}", os.O_RDONLY | os.O_CLOEXEC)


def _bring_up_or_kill(state: Path, volume: int, vm: str, device_state: int, shell: int) -> int:
    os.lseek(device_state, 0, os.SEEK_SET)
    try:
        bring_up(state, volume, vm, device_state)
        return 0
    except BlockstoreError as error:
        print(f"blockstore: {error}", file=sys.stderr, flush=True)
        for pid in children(shell):
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return error.exit_code
