"""Attachments: which VM belongs to which file, and how its resident part is to be controlled.

The daemon only keeps them, for the controller (vm/control/controller.py), which asks for them every second and tells
how its work goes. They are in the file `daemon.attachments` of the state directory, so that they outlive the daemon.
What an unmount has left there is of VMs that have ended: the controller of the next mount finds that, and cleans up
after them.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from blockstore.daemon.control import client
from blockstore.errors import InputError
from blockstore.store.state.home import lack_of_room

NAME: Final = "daemon.attachments"

AUTO: Final = "auto"
OFF: Final = "off"
"""What `resident` can be beside a size: as little as the VM can do with, and what it likes."""

BY_RUN, BY_USER, BY_CONTROLLER = "run", "attach", "auto"
"""Who has attached a VM: `blockstore run`, `blockstore attach`, or the controller (vm/control/auto_attach.py)."""

FRESH_S: Final = 30.0
"""A report that is older tells nothing any more."""


class Residency(NamedTuple):
    """How much of a VM stays resident: a size in bytes, OFF, or AUTO, which lets it spend `target_share` of its time in
    refaults, and leaves it `least_bytes`."""

    resident: int | str = AUTO
    target_share: float = 0.01
    least_bytes: int = 0


class Attachment(NamedTuple):
    """`pid` is the VM's process and `started` its start time in clock ticks, so that no later process is taken for it.

    `resident`, `target_share` and `least_bytes` are its Residency. `by` is who has attached it. `cgroup` and
    `cgroup_version` name the memory cgroup to take pages from, empty if there is none, and `cgroup_limit_bytes` its own
    limit (-1: none). `owned`: the VM was made by `blockstore run`; the file (unless `kept`), the folder of the file (if
    `made_folder`), the cgroup and processes in it are taken away when `pid` has ended.
    """

    volume: int
    pid: int
    started: int | None
    resident: int | str
    target_share: float
    cgroup: str = ""
    cgroup_version: str = ""
    cgroup_limit_bytes: int = -1
    owned: bool = False
    kept: bool = False
    made_folder: bool = False
    by: str = BY_USER
    least_bytes: int = 0

    @property
    def residency(self) -> Residency:
        return Residency(self.resident, self.target_share, self.least_bytes)

    def fields(self) -> dict[str, Any]:
        """Returns what differs from the defaults: an earlier version knows fewer fields, and refuses others."""
        usual = self._field_defaults | {"by": _maker(self.owned)}
        return {name: value for name, value in self._asdict().items() if name not in usual or value != usual[name]}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Attachment:
        """Returns the attachment, of any version. Raises TypeError for what is none."""
        known = {name: value for name, value in fields.items() if name in cls._fields}
        return cls(**{"by": _maker(bool(known.get("owned")))} | known)


def _maker(is_owned: bool) -> str:
    """Who has made an attachment that does not say so."""
    return BY_RUN if is_owned else BY_USER


class Attachments:
    """Of one mount, by volume number; `reports` are the controller's last words about each."""

    def __init__(self, state: Path) -> None:
        self._path = state / NAME
        self._by_volume: dict[int, Attachment] = {}
        self._reports: dict[int, dict[str, Any]] = {}
        self._reported_at = 0.0
        with contextlib.suppress(OSError, ValueError, TypeError):
            for each in json.loads(self._path.read_text()):
                self._by_volume[each["volume"]] = Attachment.from_fields(each)

    def all(self) -> list[dict[str, Any]]:
        """All, as JSON has them."""
        return [attachment._asdict() for attachment in self._by_volume.values()]

    def attach(self, fields: dict[str, Any]) -> None:
        """One more, or another one for the same volume. Raises InputError for what is none, OutOfRoom."""
        try:
            attachment = Attachment.from_fields(fields)
        except TypeError as error:
            raise InputError(f"this is no attachment: {error}") from None
        before = dict(self._by_volume)
        there = before.get(attachment.volume)
        if there is not None and attachment.by == BY_CONTROLLER:
            return  # while the controller looked, somebody has said what is to be done with this VM
        if there is not None and there[:3] == attachment[:3] and there.cgroup == attachment.cgroup:
            # The controller may have lowered the limit of the cgroup just when it was read.
            attachment = attachment._replace(cgroup_limit_bytes=there.cgroup_limit_bytes)
        if there is not None and there.owned and not attachment.owned:
            # How much stays may be changed; whose VM it is, and what is to be taken away after it, may not.
            attachment = there._replace(**attachment.residency._asdict())
        self._by_volume[attachment.volume] = attachment
        try:
            self._save()
        except OSError as error:
            self._by_volume = before
            raise lack_of_room(error, str(self._path.parent)) from None

    def let_alone(self, volume: int) -> None:
        """Leaves the VM alone from now on, as an earlier version of `attach --off` asks for. Raises OutOfRoom."""
        if (there := self._by_volume.get(volume)) is not None:
            by = BY_USER if there.by == BY_CONTROLLER else there.by
            self.attach(there._replace(resident=OFF, by=by).fields())

    def detach(self, volume: int) -> None:
        """One less; it need not be there."""
        self._reports.pop(volume, None)
        if self._by_volume.pop(volume, None) is not None:
            with contextlib.suppress(OSError):  # then the next daemon's controller will find that the VM has ended
                self._save()

    def report(self, reports: dict[str, Any]) -> None:
        """What the controller tells about each."""
        self._reports = {int(volume): dict(each) for volume, each in reports.items()}
        self._reported_at = time.monotonic()

    def __contains__(self, volume: int) -> bool:
        """Is this the memory of a VM that is attached?"""
        return volume in self._by_volume

    def describe(self, volume: int) -> dict[str, Any] | None:
        """What `status` shows of a volume's control; None if nobody controls it."""
        attachment = self._by_volume.get(volume)
        if attachment is None:
            return None
        shown = {"pid": attachment.pid, "attached_by": attachment.by, "wanted": attachment.resident}
        shown |= {"least": attachment.least_bytes, "mechanism": None, "refault_share": None}
        if time.monotonic() - self._reported_at < FRESH_S:
            shown |= self._reports.get(volume, {})
        return shown

    def _save(self) -> None:
        temporary = self._path.with_name(NAME + ".new")
        try:
            temporary.write_text(json.dumps([each.fields() for each in self._by_volume.values()]))
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def ask_to_attach(state: Path, attachment: Attachment) -> None:
    """Ask the daemon with this state, from another process. Raises MountError, or what it refuses with."""
    client.ask(state, {"do": "attach", "pid_namespace": own_pid_namespace(), **attachment.fields()})


def own_pid_namespace() -> str:
    """Process numbers mean the same where this is the same (pid_namespaces(7))."""
    return str(Path("/proc/self/ns/pid").readlink())
