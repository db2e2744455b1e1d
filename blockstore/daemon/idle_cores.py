"""How many cold encoders may have work: as many as there are cores that nobody else wants.

That is decided by what the encoders themselves are told by the scheduler: how long one that had work waited for a core.
They run at idle priority, so it waits if anybody else wants the core that it is on. Not by /proc/stat or
/proc/pressure/cpu: these count our own threads as well, the latter says what was ten seconds ago, and neither knows of
a limit of our own cgroup, under which an encoder waits as if the core were taken.

Idle priority alone is not enough. It counts among threads of one cgroup: a service of systemd, a container, and where
the kernel groups sessions (sched_autogroup) each of these. Against a busy thread of another one an idle one gets half
of the core. So an encoder that waits gets no more work, and what it took meanwhile is charged to the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

LOOK_S: Final = 0.02
"""Over which waiting is measured: some time slices of the scheduler, each of up to 4 ms. So long an encoder may take
half of a core from others before it is noticed."""

EVIDENCE_S: Final = 0.005
"""Of work in that time, below which nothing is concluded: one interrupt would decide."""

WAITED_SHARE: Final = 0.25
"""An encoder that waits for more than this share of its time is in somebody's way. One whose core a busy thread of
another cgroup wants as well waits for half of it; our own trio thread, which picks and publishes, takes up to a fifth
of a core."""

AGAIN_S: Final = 0.5
AGAIN_MOST_S: Final = 8.0
"""Until one encoder more is tried after one was in the way; twice as long each time that it is again. A trial takes 10
ms of others, a fiftieth of a core at first, and then a thousandth."""


class IdleCores:
    """Of one daemon. Pure: it is told the time, and what the encoders were told."""

    def __init__(self, most: int) -> None:
        """`most` is how many encoders there are."""
        self.threads = 0
        """How many may have work, the first ones."""
        self._most = most
        self._again_at_s = -math.inf
        self._pause_s = AGAIN_S
        self._is_trial = False
        """Was the last encoder let in since the last look that had evidence?"""
        self._looked_at_s = -math.inf
        self._seen: list[tuple[int, int]] = []

    def look(self, now_s: float, times_ns: Sequence[tuple[int, int]]) -> float:
        """To be asked often. `times_ns` has, of each encoder, for how long it had work, and how much processor time it
        took, ever. Returns how much of that, in seconds, they took from others since the last look."""
        if now_s - self._looked_at_s < LOOK_S:
            return 0.0
        taken_s, waited_share, has_evidence = self._since_last_look(times_ns)
        self._looked_at_s, self._seen = now_s, list(times_ns)
        if waited_share > WAITED_SHARE:
            if self.threads:
                self.threads, self._is_trial = self.threads - 1, False
                self._again_at_s = now_s + self._pause_s
                self._pause_s = min(2 * self._pause_s, AGAIN_MOST_S)
            return taken_s
        if has_evidence and self._is_trial:
            self._is_trial, self._pause_s = False, AGAIN_S
        if self.threads < self._most and now_s >= self._again_at_s and (has_evidence or not self.threads):
            self.threads += 1
            self._is_trial = True
        return 0.0

    def _since_last_look(self, times_ns: Sequence[tuple[int, int]]) -> tuple[float, float, bool]:
        """Processor time of those that were in the way; the largest share that one waited; was there one with work."""
        taken_ns, most_share, has_evidence = 0, 0.0, False
        before = self._seen or [(0, 0)] * len(times_ns)
        for (wanted_before_ns, ran_before_ns), (wanted_ns, ran_ns) in zip(before, times_ns, strict=True):
            if wanted_ns - wanted_before_ns < 1e9 * EVIDENCE_S:
                continue
            has_evidence = True
            share = 1 - (ran_ns - ran_before_ns) / (wanted_ns - wanted_before_ns)
            most_share = max(most_share, share)
            taken_ns += ran_ns - ran_before_ns if share > WAITED_SHARE else 0
        return taken_ns / 1e9, most_share, has_evidence
