"""A VM that waits for its device state (-incoming defer) is given that of a snapshot, and goes on from there."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blockstore.daemon.control import client
from blockstore.daemon.host.mounts import Mount
from blockstore.daemon.host.process_stat import children
from blockstore.errors import BlockstoreError, VmError
from blockstore.printable import printable
from blockstore.vm import apart
from blockstore.vm.fork.ledger import Ledger, settle
from blockstore.vm.qemu import qmp_sockets
from blockstore.vm.qemu.runner import REFUSAL

if TYPE_CHECKING:  # loaded while QEMU starts
    from blockstore.vm.fork.prefetch import Prefetch, Reading

START_S: Final = 60.0
"""QEMU's own start, until it speaks QMP: a quarter of a second, on a host that is busy or swaps many times that."""

LOAD_S: Final = 30.0

ENDS_S: Final = 0.5
"""How long a QEMU that closes its socket may take to end."""

INCOMING: Final = ("-incoming", "defer")

_DESCRIPTOR: Final = "blockstore-device-state"

_LOCKED: Final = '"write" lock'
_DISKS_HINT: Final = "another VM writes to that disk: give new VMs disks of their own with --disks DIR"


def bring_up(
    state: Path,
    volume: int,
    vm: str,
    device_state: int,
    reading: Reading | None,
    connected: Callable[[], None] = lambda: None,
) -> None:
    """Load it and let the VM go on; `device_state` is a file, `reading` what of its memory is being prefetched.
    `connected` is called when QEMU runs and answers. Raises VmError."""
    from blockstore.vm.qemu.monitor import Monitor, Refused  # while QEMU starts, not before
    from blockstore.vm.qemu.running import without_memory

    with Monitor(qmp_sockets.path_of(state, qmp_sockets.QMP, volume), vm, greeting_s=START_S) as monitor:
        connected()
        monitor.execute(*without_memory(True))
        monitor.pass_descriptor(device_state, _DESCRIPTOR)
        monitor.execute("migrate-incoming", {"uri": f"fd:{_DESCRIPTOR}"})
        monitor.wait_for_migration(LOAD_S)
        monitor.execute(*without_memory(False))
        if reading is not None:
            reading.finish()
        with contextlib.suppress(BlockstoreError):  # a daemon that is being replaced counts from 0 anyway
            client.ask(state, {"do": "runs", "volume": volume})
        try:
            monitor.execute("cont")
        except Refused as error:
            if _LOCKED not in str(error):
                raise
            raise VmError(f"{error}; {_DISKS_HINT}") from None


def beside(
    mount: Mount,
    vm: str,
    device_state: int,
    prefetch: Prefetch | None,
    prepare: Callable[[Ledger], None] = lambda ledger: None,
) -> Callable[[int], None]:
    """What `runner.run` is to call before it becomes QEMU's shell: starts a process that brings the VM up, and has
    `prepare` make what QEMU needs. When anything fails, QEMU is killed, and so the exit code is not 0, and what was
    made is removed."""

    def start(volume: int) -> None:
        shell = os.getpid()
        ledger = Ledger()

        def job() -> int:
            made = settle(ledger.reader)
            if not made.is_done:
                return 1
            os.lseek(device_state, 0, os.SEEK_SET)
            reading = prefetch.begin(mount.path / vm) if prefetch else None
            code = _bring_up_or_refuse(mount.state, volume, vm, device_state, reading, shell)
            if code:
                made.undo()
            if prefetch and not code:
                prefetch.follow(mount.path / vm)
            return code

        apart.fork([2, device_state, ledger.reader], job)
        ledger.keep_writing()
        try:
            prepare(ledger)
        except BaseException:
            ledger.close()
            raise
        ledger.done()

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


def _end_by_themselves(qemu: set[int], shell: int) -> bool:
    """Returns whether these children of the shell have ended. QEMU has said why then, and the shell says that it has
    ended."""
    deadline = time.monotonic() + ENDS_S
    while qemu.intersection(children(shell)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _bring_up_or_refuse(
    state: Path, volume: int, vm: str, device_state: int, reading: Reading | None, shell: int
) -> int:
    qemu: set[int] = set()  # not what the shell cleans up with when QEMU has ended

    def note_qemu() -> None:
        qemu.update(pid for pid in children(shell) if pid != os.getpid())

    try:
        bring_up(state, volume, vm, device_state, reading, note_qemu)
        return 0
    except BlockstoreError as error:
        if not qemu:
            note_qemu()
        if not _end_by_themselves(qemu, shell):
            print(f"blockstore: {printable(str(error))}", file=sys.stderr, flush=True)
            with contextlib.suppress(ProcessLookupError):
                os.kill(shell, REFUSAL)
        return error.exit_code
