"""The controller's watch for write-back that has failed (write_errors.py): over all files of the mount, in a process.

The controller does not wait for that process: while the pool is full a page that is made dirty, and the close of a
file, may wait for as long as that lasts. It is no thread, because a page fault that waits holds the lock of its address
space (mmap_lock), and so each thread that allocates memory would wait as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from blockstore.daemon.host.mounts import Mount
from blockstore.vm import apart
from blockstore.vm.memory import write_errors
from blockstore.vm.memory.write_errors import Found
from blockstore.vm.observe.log_line import log

EVERY_S: Final = 30.0
"""Between two looks at all files. The kernel keeps what it has tried to write for at least as long as memory is not
short."""

RETRY_S: Final = 5.0
"""Before the pages of a file are made dirty once more whose write-back fails again."""

COST_FACTOR: Final = 100
"""A look at all files is so many times as long ago as it took, at least."""

JOIN_S: Final = 0.5
"""How long a tick waits for a look. After the start of a daemon VMs are not held down before the first one is done."""

MARK: Final = "daemon.suspect"
"""In the state directory, a file that is there during a look, and while some volume has `failed`. The kernel tells of
an error once, and the process that was told may be killed before it has made the pages dirty: a controller that finds
the mark has the pages of all files made dirty by its first look."""

MAXIMUM_TOLD: Final = 200
"""Files that are told of at once: with the longest paths a request of some 800 KiB (control/server.py)."""


class WriteWatch:
    """Of one mount. `has_looked`: nothing is left that the daemon before this one has lost. `failed` are volumes with
    clean pages that the store may not have: nothing of them may be evicted. Evictors add to it, from any thread."""

    def __init__(self, state: Path) -> None:
        self.has_looked = False
        self.failed: Final = set[int]()
        self._look: _Look | None = None
        self._at_all_s = self._at_failed_s = 0.0  # when the next look is due
        self._untold: list[Found] = []
        self._failures: dict[int, str] = {}
        self._mark = state / MARK
        self._is_marked = self._was_cut_short = self._mark.exists()

    def spare_first_look(self) -> None:
        """Begins later: no page can have been lost before."""
        self.has_looked = True
        self._was_cut_short = False
        self._set_mark(False)
        self._at_failed_s = time.monotonic() + RETRY_S
        self._at_all_s = time.monotonic() + EVERY_S

    def is_due(self) -> bool:
        """Takes in what a look has found that has ended; returns whether it is time for the next one."""
        self._collect()
        if self.failed:
            self._set_mark(True)
        return self._look is None and time.monotonic() >= (self._at_failed_s if self.failed else self._at_all_s)

    def look(self, mount: Mount, names: Mapping[int, str | None]) -> None:
        """Looks at these volumes, which are all that there are; `is_due` has said so. Waits JOIN_S for that at most.
        Raises OSError when no process can be made."""
        self.failed.intersection_update(names)  # not &=, which would make another set
        self._set_mark(True)
        self._at_all_s = self._at_failed_s = time.monotonic() + RETRY_S
        suspects = names.keys() if self._was_cut_short else ()
        self._look = _Look(mount, names, self.failed, suspects, deep=not self.has_looked)
        self._look.join(JOIN_S)
        self._collect()

    def close(self) -> None:
        """Ends a look that goes on."""
        if self._look is not None:
            self._look.kill()
            self._look.join(JOIN_S)

    def news(self) -> list[Found]:
        """What is to be told to the daemon; `told` when that is done."""
        return self._untold[:MAXIMUM_TOLD]

    def told(self, news: Collection[Found]) -> None:
        """The daemon knows these, the first ones."""
        del self._untold[: len(news)]

    def _set_mark(self, wanted: bool) -> None:
        if wanted == self._is_marked:
            return
        with contextlib.suppress(OSError):  # a full disk keeps nobody from looking
            if wanted:
                self._mark.touch(mode=0o600)
            else:
                self._mark.unlink(missing_ok=True)
            self._is_marked = wanted

    def _collect(self) -> None:
        """Takes in what a look that has ended has found."""
        if self._look is None or not self._look.join(0.0):
            return
        look, self._look = self._look, None
        took_s, found = look.result()
        self._at_failed_s = time.monotonic() + RETRY_S
        self._at_all_s = time.monotonic() + max(EVERY_S, COST_FACTOR * took_s)
        if found is None:  # it may have been told of errors, and nobody is told a second time
            self.failed.update(look.names)
            return
        self.has_looked = True
        self._untold += [
            each for number, each in found.items() if not each.failure or self._failures.get(number) != each.failure
        ]
        self._failures = {number: each.failure for number, each in found.items() if each.failure}
        self.failed.update(self._failures)
        self.failed.difference_update(found.keys() - self._failures.keys())
        self._was_cut_short = False
        self._set_mark(bool(self.failed))


class _Look:
    """One look at all files, in a process that ends with ours."""

    def __init__(
        self,
        mount: Mount,
        names: Mapping[int, str | None],
        failed: Collection[int],
        suspects: Collection[int],
        *,
        deep: bool,
    ) -> None:
        self.names = names
        parent = os.getpid()
        self._answer = os.memfd_create("write-watch", os.MFD_CLOEXEC)

        def work() -> int:
            apart.end_with(parent)
            return _write_answer(self._answer, lambda: write_errors.look(mount, names, failed, suspects, deep=deep))

        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._answer)
            self._end, theirs = os.pipe()  # until the process ends it has the other end
            undo.callback(os.close, self._end)
            try:
                self._pid = apart.fork([2, self._answer, theirs], work)
            finally:
                os.close(theirs)
            undo.pop_all()

    def join(self, wait_s: float) -> bool:
        """Returns whether the process has ended, within `wait_s` seconds."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))

    def kill(self) -> None:
        """Ends the process, which may wait in the kernel for longer."""
        os.kill(self._pid, signal.SIGKILL)

    def result(self) -> tuple[float, dict[int, Found] | None]:
        """Returns the seconds that the look took and its findings by volume number, None if it failed, which is in the
        controller's log. `join` has said that the process has ended. Call it once."""
        _, status = os.waitpid(self._pid, 0)
        with os.fdopen(self._answer, "rb") as answer:
            text = os.pread(answer.fileno(), os.fstat(answer.fileno()).st_size, 0)
        os.close(self._end)
        if status:
            return 0.0, None
        took_s, found = json.loads(text)
        return took_s, {int(number): Found(*each) for number, each in found.items()}


def _write_answer(answer: int, look: Callable[[], dict[int, Found]]) -> int:
    """Looks, and writes the answer of `_Look.result` as JSON to the descriptor `answer`; returns the exit code."""
    started_s = time.monotonic()
    try:
        found = look()
        with os.fdopen(answer, "w", encoding="ascii", closefd=False) as text:
            json.dump([time.monotonic() - started_s, found], text)
    except Exception as error:
        log("controller", f"the look for pages that were not written has failed: {error!r}")
        return 1
    return 0
