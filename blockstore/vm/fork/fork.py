"""Many VMs that go on from where one was: each is a process of its own, without a terminal, and outlives us.

All or none: when one of them cannot be had, those that were started end again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from blockstore.daemon.host.mounts import Mount
from blockstore.errors import BlockstoreError, MountError, VmError
from blockstore.vm.fork import bring_up
from blockstore.vm.fork.launching import Clone, Launched, Watch, end, explained, launch, settled
from blockstore.vm.fork.restore import Origin, Wish, start
from blockstore.vm.open_files import open_volume
from blockstore.vm.qemu import qmp_sockets
from blockstore.vm.qemu.runner import clone_memory
from blockstore.vm.qemu.sockets import connect, wait_until_read
from blockstore.vm.snapshot import overlays
from blockstore.vm.snapshot.overlays import Base

if TYPE_CHECKING:  # loaded while QEMU starts
    from blockstore.vm.fork.prefetch import Prefetch

AT_ONCE: Final = 4
"""VMs whose QEMU is started at the same time: more of them only wait for each other's processors and disks."""

MAXIMUM_COUNT: Final = 1000
"""VMs of one fork; a larger number is a slip."""

HOOK_S: Final = 60.0
"""How long the hook of one VM may take."""


def fork(
    mount: Mount,
    origin: Origin,
    snapshot: Callable[[], Ready],
    wishes: Sequence[Wish],
    started: Callable[[Clone], None],
    prefetch: Callable[[], Prefetch | None],
) -> list[Clone]:
    """Start them all. `snapshot` fills the file of the origin; it is called while the first QEMUs start, on memory that
    is empty until then. VMs that have disks are started after it, on overlays. `started` is called for each VM when it
    runs. `prefetch` is asked once, while QEMUs start. Whatever these raise ends them all, as any other failure does."""
    ready: Ready | None = None
    reading: Prefetch | None = None
    launched: list[Launched] = []
    clones: list[Clone] = []
    watch = Watch()
    try:
        if any(wish.overlays for wish in wishes):
            ready = snapshot()
            for wish in wishes:
                overlays.make_all(ready.bases, wish.overlays, watch.ledger)
        for first in range(0, len(wishes), AT_ONCE):
            for place, wish in enumerate(wishes[first : first + AT_ONCE], first):
                launched.append(_launch(mount, origin, wish, place + 1, watch))
            import blockstore.vm.qemu.monitor  # noqa: F401  # asyncio, meanwhile

            while launched:
                clones.append(settled(mount, launched.pop(0)))
            ready = ready or snapshot()
            reading = prefetch() if not first else reading
            for clone in clones[first:]:
                _fill(mount, origin, clone)
                _bring_up(mount, clone, ready.device_state, reading)
                started(clone)
    except BaseException:
        for each in launched:
            with contextlib.suppress(BlockstoreError):  # it has failed as well
                clones.append(settled(mount, each))
        end(mount, clones)
        watch.give_up()
        raise
    watch.stand_down()
    return clones


class Ready(NamedTuple):
    """What all new VMs go on from: the descriptor of the device state, and what their disks are overlays over."""

    device_state: int
    bases: Sequence[Base]


def run_hook(mount: Mount, clone: Clone, hook: Path, mac: str) -> None:
    """Call a program with the VM's console, if it has one, as its standard input and output. Raises VmError."""
    import subprocess  # which most forks do without

    console = qmp_sockets.path_of(mount.state, qmp_sockets.CONSOLE, clone.volume)
    values = {
        "NAME": clone.name,
        "NUMBER": str(clone.number),
        "MAC": mac,
        "QMP": str(qmp_sockets.path_of(mount.state, qmp_sockets.QMP, clone.volume)),
        "CONSOLE": str(console) if console.exists() else "",
    }
    environment = os.environ | {f"BLOCKSTORE_{key}": value for key, value in values.items()}
    with ExitStack() as stack:
        stream, connection = subprocess.DEVNULL, None
        if console.exists():
            connection = stack.enter_context(connect(console, clone.name))
            connection.setblocking(True)
            stream = connection.fileno()
        try:
            done = subprocess.run(
                [hook, clone.name], stdin=stream, stdout=stream, env=environment, timeout=HOOK_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise VmError(f"the hook {hook} for {clone.name} did not end within {HOOK_S:g} s") from None
        except OSError as error:
            raise VmError(f"the hook {hook} cannot be started: {error.strerror}") from None
        if done.returncode:
            raise VmError(f"the hook {hook} for {clone.name} ended with exit code {done.returncode}")
        if connection is not None:
            wait_until_read(connection, clone.name)


def _fill(mount: Mount, origin: Origin, clone: Clone) -> None:
    """Let the VM's memory be the origin's; its QEMU has mapped it, and has seen nothing of it yet."""
    failed = f"{clone.name} cannot have its memory"
    try:
        target = open_volume(mount, clone.name, clone.volume, os.O_RDWR)
    except OSError as error:  # a VM that has ended has no memory any more
        raise explained(clone, MountError(f"{failed}: {error.strerror}")) from None
    try:
        clone_memory(origin.path, target, origin.memory_bytes, failed)
    finally:
        os.close(target)


def _bring_up(mount: Mount, clone: Clone, device_state: int, prefetch: Prefetch | None) -> None:
    own = bring_up.another(device_state)
    reading = prefetch.begin(mount.path / clone.name) if prefetch else None
    try:
        bring_up.bring_up(mount.state, clone.volume, clone.name, own, reading)
        if prefetch:
            prefetch.follow(mount.path / clone.name)
    except VmError as error:
        raise explained(clone, error) from None
    finally:
        os.close(own)


def _launch(mount: Mount, origin: Origin, wish: Wish, number: int, watch: Watch) -> Launched:
    """Begins to start one."""

    def become() -> NoReturn:
        start(mount, origin, wish, is_fork=True, warn=_warn, started=lambda volume: None)

    return launch(wish.name, number, become, watch)


def _warn(sentence: str) -> None:
    """Of one VM among many, and nobody would read it."""
