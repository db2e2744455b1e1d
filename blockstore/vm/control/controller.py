"""The controller: one process for each mount, which holds the VMs' resident parts down (docs/resident.md).

    python -m blockstore.vm.control.controller STATE MOUNTPOINT [METRICS_FD]

The daemon starts it (daemon/supervise/companion.py) and is asked every second which VMs there are, how often they
waited for a block, and which files may be the memory of VMs that nobody has attached (auto_attach.py). It opens files
of the mount, and so must never be a part of the daemon; it holds none open but those of VMs that run. When its stdin
ends, so has the daemon, and so does it.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from blockstore.daemon.control import client
from blockstore.daemon.control.attachments import OFF, Attachment, ask_to_attach
from blockstore.daemon.host import mounts
from blockstore.daemon.namespace.snapshot_names import PARTIAL
from blockstore.errors import InputError, MountError, OutOfRoom
from blockstore.vm.control.auto_attach import AutoAttach
from blockstore.vm.control.controlled import Controlled, Ended, end, open_process
from blockstore.vm.memory.write_watch import WriteWatch
from blockstore.vm.observe.history import Recorder
from blockstore.vm.observe.log_line import log
from blockstore.vm.snapshot import snapshot_file

TICK_S: Final = 1.0

WRITE_S: Final = 0.1
"""Of a tick, for the write-back of all VMs together, each of which gets its part. While a piece is on its way a store
into it waits, so this limits for how much of its time a VM can wait. An idle machine writes back 25 MB a second
so, and five times as much of VMs that do not work (IDLE_TIMES)."""

ASK_S: Final = 5.0
"""How long the daemon may take to answer."""


class Controller:
    """`run` ends with the daemon that has started it."""

    def __init__(self, state: Path, mountpoint: Path, daemon_pid: int) -> None:
        self._state = state
        self._daemon_pid = daemon_pid
        self._mountpoint = mountpoint
        self._controlled: dict[int, Controlled] = {}
        self._history = Recorder(state)
        self._write_watch = WriteWatch(state)
        self._auto_attach = AutoAttach()
        self._complaint = ""
        self._is_first = True
        self._is_orphan = False
        self._has_told_look = False

    def run(self) -> int:
        """The exit code: 0 when the daemon has ended."""
        while True:
            started = time.monotonic()
            try:
                self.tick()
            except MountError as error:
                self._complain(str(error))
            if self._is_orphan:
                self._write_watch.close()
                return 0
            is_waited_for = self._write_watch.has_looked and not self._has_told_look
            left_s = 0.05 if is_waited_for else max(TICK_S - (time.monotonic() - started), 0.05)
            poll = select.poll()
            for waited_for in (sys.stdin, *self._controlled.values()):
                poll.register(waited_for, select.POLLIN)
            if sys.stdin.fileno() in dict(poll.poll(left_s * 1000)):
                self._write_watch.close()
                return 0

    def tick(self) -> None:
        """Tells the daemon and asks it, and holds every VM down by a step. Raises MountError."""
        reports = {str(number): each.report() for number, each in self._controlled.items()}
        is_due = self._is_first or self._write_watch.is_due()
        news, has_looked = self._write_watch.news(), self._write_watch.has_looked
        request = {
            "do": "control",
            "daemon_pid": self._daemon_pid,
            "reports": reports,
            "write_errors": news,
            "has_looked": has_looked,
            "all": is_due,
        }
        answer = client.ask(self._state, request, ASK_S)
        # Not the daemon that has started this process: what a look would find now, nobody would be told.
        self._is_orphan = answer["daemon_pid"] != self._daemon_pid
        if self._is_orphan:
            return
        self._write_watch.told(news)
        self._has_told_look = has_looked
        mount = mounts.served_by(self._state, self._mountpoint)
        if mount is None:
            # Ours is detached from the tree, and another one may be in its place. It ends when nobody has a file open.
            while self._controlled:
                self._controlled.popitem()[1].close()
            return
        names = {int(number): name for number, name in (answer["names"] or {}).items()}
        if self._is_first:
            self._begin(mount, names, is_fresh=answer["is_fresh"])
        if is_due and self._write_watch.is_due():
            try:
                self._write_watch.look(mount, names)
            except OSError as error:
                self._complain(f"no process can be made that looks for pages that were not written: {error}")
        wanted = {each["volume"]: Attachment(**each) for each in answer["attachments"]}
        volumes: dict[int, dict[str, Any]] = {int(number): counts for number, counts in answer["volumes"].items()}
        may_write = self._write_watch.has_looked and not answer["stalled"]
        for number, attachment in wanted.items():
            self._attend(mount, number, attachment, volumes.get(number), WRITE_S / len(wanted), may_write=may_write)
        for number in self._controlled.keys() - wanted.keys():
            self._controlled.pop(number).close()
        if not answer["stalled"]:  # a process that waits for room may keep others from reading its mappings
            unattached = {int(number): facts for number, facts in (answer.get("unattached") or {}).items()}
            for attachment in self._auto_attach.look(mount, unattached, wanted, time.monotonic()):
                self._attach(attachment, unattached[attachment.volume]["name"])
        self._history.sample_if_due(mount)

    def _begin(self, mount: mounts.Mount, names: Mapping[int, str | None], *, is_fresh: bool) -> None:
        """Opens nothing of a fresh mount: umount(8) would find it busy, and scripts unmount at once."""
        self._is_first = False
        if any(PARTIAL in name for name in names.values() if name is not None):
            snapshot_file.clear_leftovers(mount)
        if is_fresh:
            self._write_watch.spare_first_look()
            self._history.rest()

    def _attend(
        self,
        mount: mounts.Mount,
        number: int,
        attachment: Attachment,
        counts: dict[str, Any] | None,
        write_s: float,
        *,
        may_write: bool,
    ) -> None:
        name = counts["name"] if counts is not None else None
        try:
            controlled = self._controlled.get(number)
            if controlled is not None and controlled.attachment != attachment:
                self._controlled.pop(number).close()
                controlled = None
            if attachment.resident == OFF or (controlled is None and (counts is None or name is None)):
                os.close(open_process(attachment))  # it is left alone, or its file deleted: it may run on
                return
            if controlled is None:
                controlled = self._controlled[number] = Controlled(
                    mount, str(name), attachment, self._write_watch.failed
                )
            if counts is not None:
                controlled.tick(counts, write_s, may_write=may_write)
        except Ended:
            self._let_go(mount, number, name, attachment)
        except Exception as error:  # of one VM, and no reason to leave the others
            self._complain(f"{name}: {error!r}")

    def _attach(self, attachment: Attachment, name: str) -> None:
        try:
            ask_to_attach(self._state, attachment)
        except (InputError, OutOfRoom) as error:  # its file was deleted meanwhile, or the state is full
            self._complain(f"{name}: {error}")
            return
        log("controller", f"{name}: attached, as memory of process {attachment.pid}")

    def _let_go(self, mount: mounts.Mount, number: int, name: str | None, attachment: Attachment) -> None:
        controlled = self._controlled.pop(number, None)
        if controlled is not None:
            controlled.close()
        try:
            end(mount, name, attachment)
        except OSError as error:
            self._complain(f"{name}: what is left of its VM cannot be taken away: {error}")
        client.ask(self._state, {"do": "detach", "volume": number, "ended": True}, ASK_S)

    def _complain(self, text: str) -> None:
        """Once, not every second."""
        if text != self._complaint:
            self._complaint = text
            log("controller", text)


def main(arguments: list[str]) -> int:
    """The process."""
    state, mountpoint, daemon_pid = Path(arguments[0]), Path(arguments[1]), os.getppid()
    if len(arguments) > 2:
        from blockstore.vm.observe import metrics_server  # memory that a process without metrics can do without

        metrics_server.start(int(arguments[2]), state, mountpoint)
    return Controller(state, mountpoint, daemon_pid).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
