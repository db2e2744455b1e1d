"""The controller's watch for write-back that has failed (write_errors.py): over all files of the mount, in a thread.

Nobody waits for the thread: while the pool is full a page that is made dirty, and the close of a file, may wait for as
long as that lasts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from typing import Final

from blockstore.daemon.mounts import Mount
from blockstore.vm import write_errors
from blockstore.vm.write_errors import Found

EVERY_S: Final = 30.0
"""Between two looks at all files. The kernel keeps what it has tried to write for at least as long as memory is not
short."""

RETRY_S: Final = 5.0
"""Before the pages of a file are made dirty once more whose write-back fails again."""

COST_FACTOR: Final = 100
"""A look at all files is so many times as long ago as it took, at least."""

JOIN_S: Final = 0.5
"""How long a tick waits for a look. After the start of a daemon VMs are not held down before the first one is done."""

MAXIMUM_TOLD: Final = 200
"""Files that are told of at once: with the longest paths a request of some 800 KiB (control_server.py)."""


class WriteWatch:
    """Of one mount. `has_looked`: nothing is left that the daemon before this one has lost. `failed` are volumes with
    clean pages that the store may not have: nothing of them may be evicted. Evictors add to it, from any thread."""

    def __init__(self) -> None:
        self.has_looked = False
        self.failed: Final = set[int]()
        self._thread: threading.Thread | None = None
        self._found: dict[int, Found] | None = None
        self._at_all_s = self._at_failed_s = 0.0  # when the next look is due
        self._untold: list[Found] = []
        self._failures: dict[int, str] = {}

    def spare_first_look(self) -> None:
        """Begins later: no page can have been lost before."""
        self.has_looked = True
        self._at_failed_s = time.monotonic() + RETRY_S
        self._at_all_s = time.monotonic() + EVERY_S

    def is_due(self) -> bool:
        """Takes in what a look has found that has ended; returns whether it is time for the next one."""
        self._collect()
        return self._thread is None and time.monotonic() >= (self._at_failed_s if self.failed else self._at_all_s)

    def look(self, mount: Mount, names: Mapping[int, str | None]) -> None:
        """Looks at these volumes, which are all that there are; `is_due` has said so. Waits JOIN_S for that at most."""
        self.failed.intersection_update(names)  # not &=, which would make another set
        arguments = (mount, dict(names), set(self.failed))
        self._thread = threading.Thread(target=self._look, args=arguments, name="write-watch", daemon=True)
        self._thread.start()
        self._thread.join(JOIN_S)
        self._collect()

    def news(self) -> list[Found]:
        """What is to be told to the daemon; `told` when that is done."""
        return self._untold[:MAXIMUM_TOLD]

    def told(self, news: Collection[Found]) -> None:
        """The daemon knows these, the first ones."""
        del self._untold[: len(news)]

    def _look(self, mount: Mount, names: Mapping[int, str | None], failed: Collection[int]) -> None:
        started_s = time.monotonic()
        try:
            self._found = write_errors.look(mount, names, failed, deep=not self.has_looked)
        finally:
            ended_s = time.monotonic()
            self._at_failed_s = ended_s + RETRY_S
            self._at_all_s = ended_s + max(EVERY_S, COST_FACTOR * (ended_s - started_s))

    def _collect(self) -> None:
        """What a look that has ended has found."""
        if self._thread is None or self._thread.is_alive():
            return
        found, self._thread, self._found = self._found, None, None
        if found is None:
            return  # it has ended by an error, which is in the controller's log, and is due again
        self.has_looked = True
        self._untold += [
            each for number, each in found.items() if not each.failure or self._failures.get(number) != each.failure
        ]
        self._failures = {number: each.failure for number, each in found.items() if each.failure}
        self.failed.update(self._failures)
        self.failed.difference_update(found.keys() - self._failures.keys())
