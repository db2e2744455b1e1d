"""What each step of the store gives, one after the other, and what it costs: for `analyze --cold`.

A step makes the records smaller than the step before has left them. Some need a store that begins anew, because what
they are compared with has used up the other. Their own processor time is then what theirs takes more, and is below 0
where a step spares more than it takes: what is shared is not compressed again. A further step is a function and an
entry in INGEST or COLD.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from blockstore.analysis.workbench import Workbench
from blockstore.store.accounting.comparison import compress_alone
from blockstore.store.state.geometry import BLOCK_BYTES


class Done(NamedTuple):
    """What a step has left: bytes of records. `blocks` are those that it looked at, in `cpu_s` seconds of its own
    processor time."""

    stored_bytes: int
    blocks: int
    cpu_s: float


class Climb:
    """A walk through the steps; what they tell each other."""

    def __init__(self, bench: Workbench, *, patching: bool) -> None:
        self.bench = bench
        self.patching = patching
        self.blocks = 0
        """Blocks that are not zero."""
        self.before_s = 0.0
        """Processor time that the way before this step took, where a step takes more of the same way."""


class Step(NamedTuple):
    """`key` is for --json, `name` for people. `needs_patches`: it is left out where there are none."""

    key: str
    name: str
    take: Callable[[Climb], Done]
    needs_patches: bool = False


class Gain(NamedTuple):
    """What has come of a step."""

    step: Step
    done: Done


def climb(steps: Sequence[Step], walk: Climb) -> list[Gain]:
    """Takes these steps. Raises InputError, OutOfRoom."""
    return [Gain(step, step.take(walk)) for step in steps if walk.patching or not step.needs_patches]


def describe(gains: Sequence[Gain], nonzero_bytes: int) -> list[dict[str, Any]]:
    """Returns for each step, in bytes unless said otherwise: `step` (its key), `name`, `stored` (what is left),
    `saved_bytes` (less than before), `points` (that, in per cent of what is not zero), `blocks` (that it looked at),
    and `cpu_us` (its own processor time for each of these, in microseconds)."""
    found, before = [], nonzero_bytes
    for step, done in gains:
        less = before - done.stored_bytes
        before = done.stored_bytes
        found.append(
            {
                "step": step.key,
                "name": step.name,
                "stored": done.stored_bytes,
                "saved_bytes": less,
                "points": 100 * less / nonzero_bytes if nonzero_bytes else 0.0,
                "blocks": done.blocks,
                "cpu_us": 1e6 * done.cpu_s / done.blocks if done.blocks else 0.0,
            }
        )
    return found


def _alone(walk: Climb) -> Done:
    """Each block for itself, as LZ4 makes it, without a store."""
    bench, stored_bytes, done = walk.bench, 0, 0
    for image in bench.images:
        for _, data in image.pieces():
            alone = compress_alone(data)
            walk.before_s += alone.cpu_s
            walk.blocks += alone.blocks
            stored_bytes += alone.stored_bytes
            done += len(data)
            bench.progress("compressing alone", done, bench.data_bytes)
    return Done(stored_bytes, walk.blocks, walk.before_s)


def _shared(walk: Climb) -> Done:
    return _fed(walk, patching=False)


def _patched(walk: Climb) -> Done:
    return _fed(walk, patching=True)


def _fed(walk: Climb, *, patching: bool) -> Done:
    """A store as images are put into it."""
    cpu_s = walk.bench.feed(patching=patching)
    own_s, walk.before_s = cpu_s - walk.before_s, cpu_s
    return Done(walk.bench.store.record_bytes, walk.blocks, own_s)


def _first_look(walk: Climb) -> Done:
    """All of it cold: encoded anew with zstd, against the references that there are."""
    walk.bench.store.forget_similar()  # so that no other reference is found
    done = _encode_anew(walk, hard=False)
    walk.before_s = done.cpu_s
    return done


def _references(walk: Climb) -> Done:
    """The same, with references looked for anew: in another store, for what was encoded once is not looked at again."""
    walk.bench.feed(patching=True)
    done = _encode_anew(walk, hard=False)
    return done._replace(cpu_s=done.cpu_s - walk.before_s)


def _second_look(walk: Climb) -> Done:
    return _encode_anew(walk, hard=True)


def _encode_anew(walk: Climb, *, hard: bool) -> Done:
    """A pass over all records."""
    bench, store = walk.bench, walk.bench.store
    recompression, in_all = store.recompression, store.live_contents * BLOCK_BYTES
    looks, cpu_s = recompression.looks, 0.0
    stage = "encoding anew, hard" if hard else "encoding anew"
    recompression.begin_all(hard=hard)
    while True:
        started_s = time.thread_time()
        went_on = recompression.step(store.lock)
        cpu_s += time.thread_time() - started_s
        if went_on is None:
            return Done(store.record_bytes, recompression.looks - looks, cpu_s)
        if not went_on:
            raise bench.no_room()
        bench.progress(stage, (recompression.looks - looks) * BLOCK_BYTES, in_all)


INGEST: Final = (
    Step("lz4", "each block compressed alone (LZ4)", _alone),
    Step("sharing", "identical blocks shared", _shared),
    Step("patches", "patches against similar blocks (LZ4)", _patched, needs_patches=True),
)
"""As memory is written."""

COLD: Final = (
    Step("zstd", "cold blocks encoded anew (zstd)", _first_look),
    Step("references", "references looked for anew", _references, needs_patches=True),
    Step("hard", "encoded once more, hard (zstd)", _second_look),
)
"""When it has been cold for a while, and for longer."""
