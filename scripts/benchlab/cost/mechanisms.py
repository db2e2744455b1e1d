"""What each mechanism costs, in microseconds a block: the paper's table 2, and the same here.

A Store in memory, in this process, on one core; processor time of this thread. Blocks are written as the kernel writes
them back, 1 MiB at a time, and read one at a time, as faults read them. Sharing, breaking and compressing are measured
without patching, so that nothing of it is on their bill; what a patch costs is the whole write of a block that ends as
one, its features and its try included. The paper's page out and page in will join when there is paging.

The paper's figures: Gupta et al., "Difference Engine", OSDI 2008, table 2; Xen, one core of 2007, means.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchlab import images, machine
from benchlab.bench import Bench
from benchlab.cost.engine import WRITE_BYTES
from benchlab.errors import BenchError
from benchlab.figures import Figure
from blockstore.store.state.geometry import BLOCK_BYTES, ENCODING_MASK, FIRST_ROW, ID_MASK, PATCHED
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.pool_limit import MINIMUM_LIMIT_BYTES
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume

_BLOCKS: Final = 16384
_REPETITIONS: Final = 5
_LEAST_PATCHES: Final = 20


@dataclass(frozen=True)
class Mechanism:
    """One line of the table; `paper_us` as printed there."""

    name: str
    paper_us: float
    what: str


SHARE: Final = Mechanism("share", 6.2, "a block that is stored already")
BREAK: Final = Mechanism("break", 25.1, "other content for a block that is shared")
COMPRESS: Final = Mechanism("compress", 29.7, "a block with content of its own")
UNCOMPRESS: Final = Mechanism("uncompress", 10.4, "a read of that")
PATCH: Final = Mechanism("patch", 338.1, "a block that is kept as a patch")
UNPATCH: Final = Mechanism("unpatch", 18.6, "a read of that")
MECHANISMS: Final = (SHARE, BREAK, COMPRESS, UNCOMPRESS, PATCH, UNPATCH)


def measure(bench: Bench) -> list[Figure]:
    """A figure for each mechanism; `bench.kept["mechanisms"]` lists name, here_us, low_us, high_us, paper_us."""
    count = _BLOCKS >> (3 if bench.quick else 0)
    blocks = images.unique_compressible(np.concatenate([images.data_blocks(path) for path in bench.images.values()]))
    if len(blocks) < 2 * count:
        raise BenchError(f"the images hold {len(blocks)} unique blocks; {2 * count} are wanted")
    # Evenly from all images: neighbours are alike, and so would patches be rarer or more frequent than they are.
    chosen = [blocks[place] for place in np.linspace(0, len(blocks) - 1, 2 * count).astype(int).tolist()]
    found: dict[Mechanism, list[float]] = {mechanism: [] for mechanism in MECHANISMS}
    with machine.pinned(machine.cores()[0]):
        for number in range(2 if bench.quick else _REPETITIONS):
            bench.say(f"mechanisms: {number + 1}. time, {count:,} blocks each")
            bench.noise.sample()
            machine.warm_memory(4 * count * BLOCK_BYTES)
            _unpatched(chosen[::2], chosen[1::2], found)
            _patched(chosen[::2] + chosen[1::2], found)
    bench.kept["mechanisms"] = [_as_json(mechanism, times) for mechanism, times in found.items()]
    return [_figure(mechanism, times) for mechanism, times in found.items()]


def _unpatched(first: Sequence[bytes], second: Sequence[bytes], found: dict[Mechanism, list[float]]) -> None:
    store, volume = _store(len(first) + len(second), patching=False)
    clone = store.create_volume(2, domain_key=1)
    own, other = b"".join(first), b"".join(second)
    found[COMPRESS].append(_us_a_block(len(first), lambda: _write(store, volume, own)))
    found[SHARE].append(_us_a_block(len(first), lambda: _write(store, clone, own)))
    found[UNCOMPRESS].append(_us_a_block(len(first), lambda: _read(store, volume, range(len(first)))))
    found[BREAK].append(_us_a_block(len(second), lambda: _write(store, clone, other)))
    assert store.read(clone, 0, len(other)) == other and store.read(volume, 0, len(own)) == own
    store.close()


def _patched(blocks: Sequence[bytes], found: dict[Mechanism, list[float]]) -> None:
    """A first store finds the blocks that end as patches; a second one, which holds all the others, gets them."""
    pioneer, scout = _store(len(blocks), patching=True)
    _write(pioneer, scout, b"".join(blocks))
    patched = _patched_blocks(pioneer, scout)
    pioneer.close()
    if len(patched) < _LEAST_PATCHES:
        raise BenchError(f"only {len(patched)} of {len(blocks)} blocks are alike enough to be patched")
    chosen = set(patched)
    store, volume = _store(len(blocks), patching=True)
    _write(store, volume, b"".join(block for number, block in enumerate(blocks) if number not in chosen))
    target = store.create_volume(2, domain_key=1)
    data = b"".join(blocks[number] for number in patched)
    found[PATCH].append(_us_a_block(len(patched), lambda: _write(store, target, data)))
    kept = _patched_blocks(store, target)
    found[UNPATCH].append(_us_a_block(len(kept), lambda: _read(store, target, kept)))
    assert store.read(target, 0, len(data)) == data
    store.close()


def _store(blocks: int, *, patching: bool) -> tuple[Store, Volume]:
    store = Store(MemoryHome(), 2 * blocks * BLOCK_BYTES + MINIMUM_LIMIT_BYTES, patching=patching)
    return store, store.create_volume(1, domain_key=1)


def _write(store: Store, volume: Volume, data: bytes) -> None:
    view = memoryview(data)
    for offset in range(0, len(view), WRITE_BYTES):
        run(store.write_steps(volume, offset, view[offset : offset + WRITE_BYTES]))


def _read(store: Store, volume: Volume, numbers: Sequence[int]) -> None:
    read_block = store.decoder.read_block
    for number in numbers:
        read_block(volume, number)


def _patched_blocks(store: Store, volume: Volume) -> list[int]:
    rows = np.asarray(volume.entries(0, volume.size_bytes // BLOCK_BYTES)) & np.uint64(ID_MASK)
    encodings = np.asarray(store.rows.where.items)[rows] & np.uint64(ENCODING_MASK)
    found: list[int] = np.flatnonzero((encodings == PATCHED) & (rows >= FIRST_ROW)).tolist()
    return found


def _us_a_block(blocks: int, work: Callable[[], None]) -> float:
    started = time.thread_time()
    work()
    return 1e6 * (time.thread_time() - started) / blocks


def _as_json(mechanism: Mechanism, times_us: Sequence[float]) -> dict[str, float | str]:
    return {
        "name": mechanism.name,
        "here_us": statistics.median(times_us),
        "low_us": min(times_us),
        "high_us": max(times_us),
        "paper_us": mechanism.paper_us,
    }


def _figure(mechanism: Mechanism, times_us: Sequence[float]) -> Figure:
    note = f"{mechanism.what}; the paper's, on a machine of 2007: {mechanism.paper_us:.1f} us"
    middle = statistics.median(times_us)
    return Figure("mechanisms", mechanism.name, middle, "us", low=min(times_us), high=max(times_us), note=note)
