"""The engine: a Store in memory against the bare codec on the same blocks, in this process, on one core.

Written are the blocks of the image that are not zero, packed, by 1 MiB; read back 128 KiB at a time, as write-back
and read-ahead come. Bare is a loop over blocks that lie ready: digest and compress each, or decompress each. Times
are processor times of this thread.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import lz4.block
import numpy as np
import xxhash

from benchlab import images, machine
from benchlab.bench import Bench
from benchlab.figures import Figure, from_repetitions, ratios
from blockstore.store.geometry import (
    BLOCK_BYTES,
    ENCODING_MASK,
    FIRST_ROW,
    OFFSET_SHIFT,
    PATCHED,
    SIZE_MASK,
    SIZE_SHIFT,
)
from blockstore.store.home import MemoryHome
from blockstore.store.ingest import RAW_FROM_BYTES
from blockstore.store.pool_limit import MINIMUM_LIMIT_BYTES
from blockstore.store.store import Store, run
from blockstore.store.volume import Volume, ids_of

WRITE_BYTES: Final = 1 << 20
READ_BYTES: Final = 128 << 10

INGEST_PATCHING_TARGET: Final = 2.3
INGEST_PLAIN_TARGET: Final = 1.6
READ_TARGET: Final = 1.5

_REPETITIONS: Final = 5
_QUICK_BLOCKS: Final = 16384
_COLD_WAIT_S: Final = 3.0
"""The hypervisor takes back what is free for about two seconds."""


@dataclass
class _Times:
    """Seconds, one entry a repetition."""

    bare: list[float] = field(default_factory=list)
    patching: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    cold_bare: list[float] = field(default_factory=list)
    bare_read: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    read_patched: list[float] = field(default_factory=list)


def measure(bench: Bench) -> list[Figure]:
    """Each image for itself, then all in one store."""
    limit = _QUICK_BLOCKS if bench.quick else None
    recorded = bench.images  # by guests, which may have all cores
    with machine.pinned(machine.cores()[0]):
        sets = {name: images.data_blocks(path, limit) for name, path in recorded.items()}
        sets["+".join(sets)] = np.concatenate(list(sets.values()))
        figures = []
        for name, blocks in sets.items():
            bench.say(f"engine: {name}, {blocks.nbytes >> 20} MiB")
            bench.noise.sample()
            figures += _measure_set(bench, name, blocks)
        return figures


def _measure_set(bench: Bench, name: str, blocks: images.Blocks) -> list[Figure]:
    times = _Times()
    for _ in range(2 if bench.quick else _REPETITIONS):
        _measure_ingest(blocks, times, cold=not bench.quick)
        _measure_reads(blocks, times)
    size_mib = blocks.nbytes / 2**20
    rate = f"{size_mib / min(times.patching):.0f} MB/s; bare {size_mib / min(times.bare):.0f}"
    figures = [
        from_repetitions(
            "engine",
            f"ingest / bare, {name}",
            ratios(times.patching, times.bare),
            target=INGEST_PATCHING_TARGET,
            note=rate,
        ),
        from_repetitions(
            "engine",
            f"ingest without patching / bare, {name}",
            ratios(times.plain, times.bare),
            target=INGEST_PLAIN_TARGET,
            note=f"{size_mib / min(times.plain):.0f} MB/s",
        ),
        from_repetitions(
            "engine",
            f"read / bare decompress, {name}",
            ratios(times.read, times.bare_read),
            target=READ_TARGET,
            note=f"{1e6 * min(times.read) / len(blocks):.2f} us a block",
        ),
        from_repetitions(
            "engine",
            f"read of patched and compressed / bare decompress, {name}",
            ratios(times.read_patched, times.bare_read),
            note="bare: the compressed records of the same blocks",
        ),
    ]
    if times.cold:
        figures.append(
            from_repetitions(
                "engine",
                f"ingest / bare, {name}, memory not taken before",
                ratios(times.cold, times.cold_bare),
                note="with the hypervisor's faults",
            )
        )
    return figures


def _measure_ingest(blocks: images.Blocks, times: _Times, *, cold: bool) -> None:
    data = blocks.data.cast("B")
    ready = [line.tobytes() for line in blocks]
    times.bare.append(_timed(lambda: _digest_and_compress(ready)))
    for patching, into in ((True, times.patching), (False, times.plain)):
        machine.warm_memory(len(data))
        into.append(_ingest(data, patching=patching))
    if cold:
        time.sleep(_COLD_WAIT_S)
        times.cold.append(_ingest(data, patching=True))
        times.cold_bare.append(_timed(lambda: _digest_and_compress(ready)))


def _ingest(data: memoryview, *, patching: bool) -> float:
    store, volume = _empty_store(len(data), patching=patching)
    seconds = _timed(lambda: _write(store, volume, data))
    store.close()
    return seconds


def _measure_reads(blocks: images.Blocks, times: _Times) -> None:
    """Only blocks that compress: what is stored raw has no decompression to be compared with."""
    chosen = [line for line in blocks if len(lz4.block.compress(line, store_size=False)) < RAW_FROM_BYTES]
    data = np.stack(chosen).data.cast("B")
    plain, volume = _empty_store(len(data), patching=False)
    _write(plain, volume, data)
    records = _records(plain, volume)
    times.bare_read.append(_timed(lambda: _decompress(records)))
    times.read.append(_timed(lambda: _read(plain, volume)))
    plain.close()
    patched, volume = _empty_store(len(data), patching=True)
    _write(patched, volume, data)
    times.read_patched.append(_timed(lambda: _read(patched, volume)))
    assert b"".join(patched.read(volume, 0, READ_BYTES)) == data[:READ_BYTES]
    patched.close()


def _empty_store(data_bytes: int, *, patching: bool) -> tuple[Store, Volume]:
    store = Store(MemoryHome(), data_bytes + data_bytes // 8 + MINIMUM_LIMIT_BYTES, patching=patching)
    return store, store.create_volume(1, domain_key=1)


def _write(store: Store, volume: Volume, data: memoryview) -> None:
    for offset in range(0, len(data), WRITE_BYTES):
        run(store.write_steps(volume, offset, data[offset : offset + WRITE_BYTES]))


def _read(store: Store, volume: Volume) -> None:
    for offset in range(0, volume.size_bytes, READ_BYTES):
        store.read(volume, offset, READ_BYTES)


def _records(store: Store, volume: Volume) -> list[bytes]:
    """The compressed record of each block, in the order in which they are read."""
    where_of, view = store.rows.where.items, store.pool.view
    records = []
    for row in ids_of(volume.entries(0, volume.size_bytes // BLOCK_BYTES)).tolist():
        where = where_of[row]
        assert row >= FIRST_ROW and where & ENCODING_MASK != PATCHED
        offset = where >> OFFSET_SHIFT
        records.append(bytes(view[offset : offset + (where >> SIZE_SHIFT & SIZE_MASK)]))
    return records


def _digest_and_compress(blocks: list[bytes]) -> None:
    digest, compress = xxhash.xxh3_64_intdigest, lz4.block.compress
    for block in blocks:
        digest(block)
        compress(block, store_size=False)


def _decompress(records: list[bytes]) -> None:
    decompress = lz4.block.decompress
    for record in records:
        decompress(record, uncompressed_size=BLOCK_BYTES)


def _timed(work: Callable[[], None]) -> float:
    """Seconds of processor time, the kernel's for us included: other processes may run meanwhile, at no one's cost."""
    gc.collect()
    start = time.thread_time()
    work()
    return time.thread_time() - start
