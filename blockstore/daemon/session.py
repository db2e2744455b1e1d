"""A daemon's time at a mount: threads and tasks, from the mount or the handover to the end.

Threads: trio's (the main one: pyfuse3, control socket, signals), the lane's two and its watch, the relay; with a
tier, fetchers and the pager. Order at the end: the mount goes first (the kernel has then written back everything),
the lane sees it and ends, trio's side follows, then those of the tier.

A daemon that can be replaced does not try to live on with a part of it broken: it dies, and the next one takes over.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import syslog
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import pyfuse3
import trio

from blockstore.daemon import handover
from blockstore.daemon.background import Background
from blockstore.daemon.control import server
from blockstore.daemon.control.attachments import Attachments
from blockstore.daemon.fuse import kernel, throttle
from blockstore.daemon.fuse.device import Device
from blockstore.daemon.fuse.relay import Relay
from blockstore.daemon.handover import Handover
from blockstore.daemon.host import mounts
from blockstore.daemon.host.unmount import unmount, unmount_unused
from blockstore.daemon.lane.lane import Lane, Progress
from blockstore.daemon.lane.lane_core import LaneCore
from blockstore.daemon.lane.stepper import Stepper
from blockstore.daemon.namespace.names import Names
from blockstore.daemon.namespace.operations import Operations
from blockstore.daemon.options import FOLLOW, MountOptions
from blockstore.daemon.state import state_loss
from blockstore.daemon.supervise import pressure
from blockstore.daemon.supervise.companion import Companion
from blockstore.daemon.supervise.notify import Service
from blockstore.daemon.tiers.arriving import Arriving
from blockstore.daemon.tiers.fetches import Fetches
from blockstore.daemon.tiers.pager import Pager
from blockstore.daemon.tiers.pull import Pull
from blockstore.daemon.tiers.sources import Sources
from blockstore.errors import MountError
from blockstore.store.state.home import free_bytes_under
from blockstore.store.store import Store
from blockstore.store.tiers import Tier
from blockstore.store.volume import file_name

log = logging.getLogger(__name__)

UNMOUNT_S: Final = 60.0
"""How long an unmount by signal may take: it writes back what is dirty, gigabytes at worst."""

LOOK_S: Final = 60.0
"""How long that waits for the controller's first look, after which all that may leave is in the store. It takes a
second where the machine is idle; systemd kills after 90 (TimeoutStopSec=)."""

LOOK_RETRY_S: Final = 0.1

SETTLE_S: Final = 5.0
"""After the start, when a VM no longer waits for it, its memory is given back."""

CRASHED_EXIT_CODE: Final = 70

BEATS: Final = 4
"""Signs of life in the time within which one must come."""


class Session:
    """`inherited` is the descriptor of a mount that another daemon served, and what that one left; if there is one."""

    def __init__(
        self,
        options: MountOptions,
        store: Store,
        names: Names,
        service: Service,
        inherited: tuple[int, Handover] | None,
        warnings: list[str],
        tier: Tier | None,
        sources: Sources,
    ) -> None:
        self.options = options
        self.store = store
        self.names = names
        self.store_lock = store.lock
        self.tier = tier
        self.fetches = Fetches(store, self.store_lock, tier, sources)
        self.pager = Pager(store, self.store_lock, tier, self.fetches) if tier is not None else None
        self.pull = Pull(store, self.store_lock, sources)
        self.arriving = Arriving(store, self.store_lock, sources, lambda: self.pull.is_under_way)
        self.stepper = Stepper(store, self.store_lock, self.fetches, self._makes_room)
        self.operations = Operations(
            names, store, self.store_lock, self.stepper, self.state_free_bytes, self._is_in_use, self._is_attached
        )
        self.lane: Lane  # made by run(), once there is a device
        self.background = Background(
            store, self.store_lock, options, self._has_waiting, self._requests, lambda: bool(self.stalled)
        )
        self.attachments = Attachments(Path(options.state))
        self.companion = Companion(options, self._has_work_for_controller)
        self._is_kept = bool(inherited)
        self._state = Path(options.state)
        self._service = service
        self._warnings = warnings
        self._relay: Relay
        self._remembering = threading.Lock()
        self._session_fd = -1
        if inherited:
            self._device_fd, self.handover = inherited
            if self.handover.background_cpu >= 0:
                self.background.cpu_percent = self.handover.background_cpu
        else:
            self._device_fd = -1
        self._takes_over = bool(inherited)
        self.has_looked = not self._takes_over
        """The controller has looked for what the daemon before this one may have lost (vm/memory/write_errors.py)."""
        self.controller_ticks = 0
        """How often the controller has looked at the VMs, that is: has asked."""

    def _has_work_for_controller(self) -> bool:
        """Is there a file, a VM that was attached to one which is gone, or a daemon before this one?"""
        return self._takes_over or bool(self.store.volumes) or bool(self.attachments.all())

    @property
    def is_fresh(self) -> bool:
        """Whether no daemon or controller of this mount was there before: no page of it can have been lost."""
        return not self._takes_over and self.companion.is_first

    @property
    def supervisor_pid(self) -> int | None:
        """Who would start the next daemon, if anybody."""
        return self._service.manager_pid

    @property
    def can_be_replaced(self) -> bool:
        """Does somebody hold the mount, and start another daemon when this one dies?"""
        return self._is_kept and self._service.manager_pid is not None

    @property
    def is_orphaned(self) -> bool:
        """Has the process died that held the mount?"""
        return self._is_kept and not self.can_be_replaced

    @property
    def stalled(self) -> int:
        """Requests that wait for room."""
        return self.stepper.stalled + self.lane.stalled

    def forget_damage(self) -> None:
        """What was damaged is mended: a verification has found everything whole."""
        self.store.lost_blocks = 0
        self.lane.corrupt_reads = self.fetches.corrupt_reads = 0
        if self.handover.write_errors:
            self.remember(write_errors=0, rewritten_bytes=0, lost_writes=0)

    def heard_of_write_errors(self, found: list[tuple[str, int, str]]) -> None:
        """Logs and counts files whose write-back had failed: name, bytes that were made dirty again, why no more."""
        if not found:
            return
        for name, size_bytes, failure in found:
            done = f"they are written again ({size_bytes} bytes)"
            if failure:
                done = f"they cannot be written again ({failure}), and are lost when they leave the page cache"
            log.error("write-back of pages of %r had failed; %s", name, done)
        self.remember(
            write_errors=self.handover.write_errors + len(found),
            rewritten_bytes=self.handover.rewritten_bytes + sum(size_bytes for _, size_bytes, _ in found),
            lost_writes=self.handover.lost_writes + sum(bool(failure) for _, _, failure in found),
        )

    @property
    def corrupt_reads(self) -> int:
        """Reads that met a block which cannot be read."""
        return self.lane.corrupt_reads + self.fetches.corrupt_reads

    def tier_figures(self) -> dict[str, Any] | None:
        """What `status` tells of the tier."""
        if self.tier is None or self.pager is None:
            return None
        failing = [
            (health.failing_since, health.reason)
            for health in (self.fetches.health, self.pager.health)
            if health.failing_since
        ]
        reads_fail = bool(self.fetches.health.failing_since)
        if not failing and not self.arriving.is_source_away and (waits_s := self.fetches.waits_long_s):
            reads_fail, failing = True, [(time.time() - waits_s, f"{self.tier.describe()} does not answer")]
        with self.store_lock:
            figures = self.pager.figures()
        return {
            "place": self.tier.describe(),
            **figures,
            "reads_waiting": self.fetches.waiting,
            "reads_fail": reads_fail,
            "failing_since": min((since for since, _ in failing), default=None),
            "reason": failing[0][1] if failing else "",
        }

    def arriving_figures(self) -> dict[str, Any] | None:
        """What `status` tells of blocks that are still at other hosts."""
        with self.store_lock:
            return self.arriving.figures()

    def run(self, handlers: dict[str, server.Handler]) -> None:
        """Serve until the mount is gone. Raises MountError when it cannot be made."""
        flags = {"default_permissions", "subtype=blockstore", f"fsname={mounts.source_for(self._state)}"}
        if self.options.allow_other:
            flags.add("allow_other")
        if self._takes_over:
            self._relay = Relay(Device(self._device_fd), _die)
            self._session_fd = self._relay.lend()
            pyfuse3.init(self.operations, f"/dev/fd/{self._session_fd}", flags)
        else:
            self.companion.bind()
            self._mount(flags)
        try:
            helpers = [each for each in (self.fetches, self.arriving, self.pager) if each is not None]
            for each in helpers:
                each.start()
            trio.run(self._main, handlers)
            self.pull.stop()
            for each in helpers:
                each.stop()
        finally:
            pyfuse3.close(unmount=False)
        handover.forget(self._state)

    def _mount(self, flags: set[str]) -> None:
        try:
            pyfuse3.init(self.operations, self.options.mountpoint, flags)
        except RuntimeError:
            raise MountError(
                f"{self.options.mountpoint} cannot be mounted: the kernel or fusermount3 refused; "
                "are you allowed to mount there?"
            ) from None
        self._session_fd = _find_session_fd()
        self._device_fd = os.dup(self._session_fd)
        device = mounts.find(Path(self.options.mountpoint)).device
        self._service.mounted(device)
        self.handover = Handover(device, mounted_at=time.time()).save(self._state)
        # pyfuse3 keeps one end of a socket pair in the place of the device (docs/decisions.md, "The lane").
        os.set_blocking(self._device_fd, True)
        self._relay = Relay(Device(self._device_fd), _die)

    async def _main(self, handlers: dict[str, server.Handler]) -> None:
        self._start_relay()
        try:
            async with trio.open_nursery() as nursery:
                tasks: list[Callable[[], Coroutine[Any, Any, None]]] = [
                    self._watch_signals,
                    self.stepper.compact,
                    self.background.run,
                    self._announce,
                ]
                for task in tasks:
                    nursery.start_soon(task)
                nursery.start_soon(server.serve, self._state, handlers)
                await pyfuse3.main()
                nursery.cancel_scope.cancel()
        except BaseException:
            if self.can_be_replaced:
                log.critical("names are no longer served", exc_info=True)
                _die()
            log.critical("names are no longer served; memory is, until its last user has gone", exc_info=True)
            unmount(self.options.mountpoint, lazy=True)
            raise
        finally:
            self._relay.close()
            self.lane.join()
        await self.operations.drop_unused()

    def _start_relay(self) -> None:
        relay = self._relay
        relay.start(self._session_fd)
        self.lane = Lane(
            relay.device,
            self.store,
            self.store_lock,
            relay,
            self.operations.writers_of,
            self._saw_init,
            _die,
            self.fetches,
            self._makes_room,
            LaneCore().look if self.options.lane_cpu == FOLLOW else None,
        )
        if self._takes_over:
            relay.replay_init(self.handover.init_request)
        else:
            self._start_lane()

    def _start_lane(self) -> None:
        token = trio.lowlevel.current_trio_token()

        def end_names() -> None:
            with contextlib.suppress(trio.RunFinishedError, trio.Cancelled):
                token.run_sync_soon(pyfuse3.terminate)

        self.lane.start(ended=end_names)

    async def _announce(self) -> None:
        await self.operations.initialised.wait()
        warnings: list[str] = []
        if self._takes_over:
            # Before the lane reads: what it has read itself must not be asked again.
            kernel.resend(self._device_fd)
            self._start_lane()
            await self.operations.drop_unused()
            if self.store.lost_blocks:
                log.critical("%d blocks were lost: tables are damaged", self.store.lost_blocks)
            log.info("the mount is served again (restart %d)", self.handover.restarts)
        else:
            warnings += self._warnings
            warnings += [text for text in (throttle.lift(self.handover.device), self._lack_of_handover()) if text]
        for warning in warnings:
            log.warning("%s", warning)
        self._service.ready(warnings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            nursery.start_soon(self.companion.run)
            nursery.start_soon(self._settle)
            nursery.start_soon(self._watch_state)

    def state_loss(self) -> str:
        """The sentence about files of the state that are not there any more; empty if all are."""
        return state_loss.find(self._state, volumes=lambda: [file_name(number) for number in list(self.store.volumes)])

    async def _watch_state(self) -> None:
        """Say it once, also in the system's log: ours may be deleted as well."""
        told = ""
        while True:
            found = self.state_loss()
            if found and found != told:
                log.critical("%s", found)
                await trio.to_thread.run_sync(syslog.syslog, syslog.LOG_CRIT, found, abandon_on_cancel=True)
            elif told and not found:
                log.warning("the files of the state are where they were again")
            told = found
            await trio.sleep(state_loss.LOOK_S)

    async def _settle(self) -> None:
        await trio.sleep(SETTLE_S)
        with contextlib.suppress(OSError):
            await trio.to_thread.run_sync(pressure.shed, abandon_on_cancel=True)
        while True:
            self.lane.trim()
            await trio.to_thread.run_sync(pressure.trim_heap, abandon_on_cancel=True)
            await trio.sleep(pressure.TRIM_S)

    async def _beat(self) -> None:
        progress, was_stuck = Progress(-1, -1, -1), False
        while self._service.watchdog_s:
            with self.store_lock:  # whoever hangs in there keeps us from the beat
                pass
            # A request that comes at this very moment, the first for a while, waits for the lane to wake up.
            is_stuck = self.lane.is_stuck(progress)
            if is_stuck and was_stuck:
                log.error("requests wait, but the lane takes none")
            else:
                self._service.beat()
            was_stuck = is_stuck
            progress = self.lane.progress
            await trio.sleep(self._service.watchdog_s / BEATS)

    def _saw_init(self, request: bytes) -> None:
        """In the lane's thread, once at most: from here on another daemon could go on."""
        self.remember(init=request.hex())
        if self._service.manager_pid is not None and handover.can_resend(request):
            try:
                self._service.keep(self._device_fd, handover.DESCRIPTOR_NAME)
                self._is_kept = True
            except OSError as error:
                log.error("the descriptor of the mount cannot be handed over: %s", error.strerror)

    @property
    def attach_patterns(self) -> tuple[str, ...]:
        """Of names of files whose VMs are to be attached."""
        patterns = self.handover.attach
        return tuple(self.options.attach if patterns is None else patterns)

    def remember(self, **fields: str | float | tuple[str, ...]) -> None:
        """Leave this to the next daemon as well. Raises OutOfRoom."""
        with self._remembering:
            self.handover = self.handover.changed(self._state, **fields)

    def _lack_of_handover(self) -> str:
        if self.can_be_replaced or self._service.manager_pid is None:
            return ""
        return (
            "this kernel cannot hand requests over to a new daemon (Linux 6.9 can): "
            "if the daemon dies, the mount ends, and the VMs on it get errors"
        )

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                log.info("signal %d: unmounting", number)
                await trio.to_thread.run_sync(self._unmount, abandon_on_cancel=True)

    def _unmount(self) -> None:
        """Our mount, wherever it is; another one may be at the mountpoint by now."""
        deadline = time.monotonic() + LOOK_S
        while not self.has_looked and time.monotonic() < deadline:
            time.sleep(LOOK_RETRY_S)
        if not self.has_looked:
            log.error(
                "the controller has not looked within %.0f s for what the daemon before this one may have lost", LOOK_S
            )
        for mount in [mount for mount in mounts.all_mounts() if mount.device == self.handover.device]:
            users = "somebody"
            try:
                failure, users = unmount_unused(mount, UNMOUNT_S)
            except subprocess.TimeoutExpired:
                failure = f"not within {UNMOUNT_S:.0f} s"
            if failure:
                log.error("%s stays mounted (%s), used by %s; end these first", mount.path, failure, users)
            return
        log.error("the mount is detached from the tree; it ends with the last who uses its files")

    def _makes_room(self) -> bool:
        return self.pager is not None and self.pager.makes_room

    def _has_waiting(self) -> bool:
        return self.lane.has_waiting()

    def _requests(self) -> int:
        return self.lane.turns

    def _is_attached(self, inode: int) -> bool:
        return inode in self.attachments

    def _is_in_use(self, inode: int) -> bool:
        return kernel.knows_inode(self._device_fd, inode)

    def state_free_bytes(self) -> int:
        return free_bytes_under(self._state)


def _die() -> None:
    """Now, without another step: what is in the state is whole at any moment, and the next daemon asks for the rest."""
    os._exit(CRASHED_EXIT_CODE)


def _find_session_fd() -> int:
    """The descriptor of /dev/fuse that libfuse opened last."""
    found = [
        int(entry.name)
        for entry in Path("/proc/self/fd").iterdir()
        if entry.is_symlink() and str(entry.readlink()) == "/dev/fuse"
    ]
    if not found:
        raise MountError("libfuse holds no descriptor of /dev/fuse; please report this")
    return max(found)
