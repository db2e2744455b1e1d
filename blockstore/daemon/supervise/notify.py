"""The daemon's side of the service protocol (sd_notify(3), sd_listen_fds(3)): what it tells whoever started it.

One protocol for systemd and for our own supervisor. Messages are datagrams of KEY=VALUE lines to NOTIFY_SOCKET;
descriptors that shall outlive the process are handed over with FDSTORE=1 and come back to the next one as
LISTEN_FDS. Without NOTIFY_SOCKET nobody listens, and everything here does nothing. The messages stand in
notify_message.py.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from blockstore.daemon.supervise.notify_message import DEVICE_KEY, ERROR_KEY, FIRST_FD, NOTIFY_VARIABLE, WARNINGS_KEY

TELL_S: Final = 5.0
"""How long it may take to be heard; a beat is not waited for at all, because the mount would stand still meanwhile."""

_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class Service:
    """Whoever started this process and watches it, if anybody does."""

    def __init__(self) -> None:
        """Read the environment, and take what no child of ours shall see out of it."""
        self._address = os.environ.pop(NOTIFY_VARIABLE, "")
        self._manager_pid = os.getppid()
        self.watchdog_s = int(os.environ.pop("WATCHDOG_USEC", "0")) / 1e6
        """A beat must come within this time; 0 where nobody waits for one."""
        self.kept = _take_kept_descriptors()
        """The descriptors of the process before this one, by name."""

    @property
    def manager_pid(self) -> int | None:
        """The process that would start another one after this one; None if there is none, or it has died."""
        return self._manager_pid if self._address and os.getppid() == self._manager_pid else None

    def ready(self, warnings: list[str]) -> None:
        """The mount serves."""
        self._send(f"READY=1\n{WARNINGS_KEY}={json.dumps(warnings)}")

    def mounted(self, device: str) -> None:
        """There is a mount now, which has to go if the start fails."""
        self._send(f"{DEVICE_KEY}={device}")

    def failed(self, message: str, code: int) -> None:
        """This start has failed, and the next one would fail in the same way."""
        self._send(f"{ERROR_KEY}={json.dumps({'error': message, 'code': code})}")

    def beat(self) -> None:
        """All is well."""
        self._send("WATCHDOG=1", timeout_s=0)

    def keep(self, descriptor: int, name: str) -> None:
        """Hold this descriptor until the process ends, and give it to the next one. Raises OSError when nobody does."""
        self._send(f"FDSTORE=1\nFDNAME={name}", [descriptor])

    def _send(self, text: str, descriptors: Sequence[int] = (), timeout_s: float = TELL_S) -> None:
        if not self._address:
            return
        # An abstract address (@...) starts with a zero byte.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        rights = struct.pack(f"{len(descriptors)}i", *descriptors)
        attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.settimeout(timeout_s)
            try:
                notify.sendmsg([text.encode()], attached, 0, address)
            except OSError:
                if descriptors:
                    raise
                # Whoever listened is gone: nobody can be told.


def _take_kept_descriptors() -> dict[str, int]:
    pid, count, names = (os.environ.pop(variable, "") for variable in _VARIABLES)
    if pid != str(os.getpid()):
        return {}
    descriptors = range(FIRST_FD, FIRST_FD + int(count))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return dict(zip(names.split(":"), descriptors, strict=False))
