"""A daemon that is killed again and again while memory is written back and read, and what became of that memory.

Two loads count what they lose (loads.py): `rewritten` writes back steadily and looks at every page afterwards, `reread`
reads what is not resident. Each daemon is killed 0 to 0.4 s after it has begun to serve, so that SIGKILL meets the
transfer of requests, of which each carries up to 1 MiB of pages.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from blockstore.daemon.supervise.backoff import QUICK_DEATH_S
from soaklab.mounted import SoakError, await_service, end_load, kill_daemon, mounted, running_load, said

LONGEST_LIFE_S: Final = 0.4
"""Of a daemon, from the moment that it serves to its death."""

QUICK_DEATHS: Final = 4
"""After so many in a row a daemon lives a little longer: else the supervisor waits before it starts the next one."""

STORED_BYTES: Final = 256 << 20
"""What both loads can store at most, and twice."""


@dataclass
class Losses:
    """What the loads have counted, over all kills."""

    kills: int
    rounds: int
    reads: int
    lost_pages: int
    failed_writes: int
    failed_reads: int

    @property
    def is_none(self) -> bool:
        """Returns whether nothing was lost and nothing failed."""
        return not (self.lost_pages or self.failed_writes or self.failed_reads)


def kill_loop(kills: int, seed: int, say: Callable[[str], None]) -> Losses:
    """Kills the daemon of a mount so many times under both loads. Raises SoakError when a load or the mount fails."""
    chance, quick_deaths = random.Random(seed), 0
    with mounted(STORED_BYTES) as (mount, state), contextlib.ExitStack() as stack:
        loads = {kind: stack.enter_context(running_load(kind, mount, seed)) for kind in ("rewritten", "reread")}
        killed_pid = 0
        for number in range(1, kills + 1):
            await_service(state, killed_pid)
            life_s = chance.uniform(0, LONGEST_LIFE_S)
            if quick_deaths >= QUICK_DEATHS:
                life_s = LONGEST_LIFE_S
            quick_deaths = quick_deaths + 1 if life_s < QUICK_DEATH_S else 0
            time.sleep(life_s)
            killed_pid = kill_daemon(state)
            for kind, process in loads.items():
                if process.poll() is not None:
                    raise SoakError(f"the load {kind!r} ended (exit code {process.returncode}): {said(process)}")
            if number % 50 == 0:
                say(f"{number} kills under write-back and reads")
        done = {kind: end_load(kind, process) for kind, process in loads.items()}
    written, read = done["rewritten"], done["reread"]
    return Losses(
        kills,
        written["rounds"],
        read["reads"],
        written["lost_pages"] + read["wrong_reads"],
        written["failed_writes"],
        written["failed_reads"] + read["failed_reads"],
    )
