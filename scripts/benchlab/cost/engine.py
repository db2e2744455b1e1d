"""The engine: a Store in memory against the bare codec on the same blocks, in this process, on one core.

Written are the blocks of the image that are not zero, packed, by 1 MiB; read back 128 KiB at a time, as write-back
and read-ahead come. Bare is a loop over the same blocks: digest and compress each, in compiled code, or decompress
each. Times are processor times of this thread, but those of two threads beside one.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import lz4.block
import numpy as np

from benchlab import images, machine
from benchlab.bench import Bench
from benchlab.figures import AT_LEAST, Figure, from_repetitions, ratios
from blockstore.plane.codec.codec import Codec
from blockstore.store.codec import CODEC
from blockstore.store.ingest import RAW_FROM_BYTES
from blockstore.store.state.geometry import BLOCK_BYTES, COMPRESSED, ENCODING_MASK, FIRST_ROW, ID_MASK
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.location import offset_of, size_of
from blockstore.store.state.pool_limit import MINIMUM_LIMIT_BYTES
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume

WRITE_BYTES: Final = 1 << 20
READ_BYTES: Final = 128 << 10

INGEST_PATCHING_TARGET: Final = 1.7
INGEST_PLAIN_TARGET: Final = 1.6
THREADS_TARGET: Final = 1.7
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
    if len(set(machine.cores())) > 1:
        figures.append(_measure_threads(bench, *list(sets.items())[-1]))
    return figures


def _measure_threads(bench: Bench, name: str, blocks: images.Blocks) -> Figure:
    """Halves of the blocks are written to two volumes of one store, by one thread, and by two at once."""
    data = blocks.data.cast("B")
    half = len(data) // 2 // WRITE_BYTES * WRITE_BYTES
    parts = (data[:half], data[half : 2 * half])
    one: list[float] = []
    two: list[float] = []
    for _ in range(3 if bench.quick else _REPETITIONS):
        for together, into in ((False, one), (True, two)):
            machine.warm_memory(len(data))
            store, volume = _empty_store(len(data), patching=True)
            volumes = (volume, store.create_volume(2, domain_key=1))
            writers = [
                threading.Thread(target=_write, args=(store, *pair)) for pair in zip(volumes, parts, strict=True)
            ]
            with machine.before_all():
                began_s = time.perf_counter()
                for writer in writers:
                    writer.start()
                    if not together:
                        writer.join()
                for writer in writers:
                    writer.join()
                seconds = time.perf_counter() - began_s
            into.append(seconds)
            store.close()
    return from_repetitions(
        "engine", f"two threads writing / one, {name}", ratios(one, two), target=THREADS_TARGET, direction=AT_LEAST
    )


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
    times.bare.append(_timed(lambda: _digest_and_compress(data)))
    for patching, into in ((True, times.patching), (False, times.plain)):
        machine.warm_memory(len(data))
        into.append(_ingest(data, patching=patching))
    if cold:
        time.sleep(_COLD_WAIT_S)
        times.cold.append(_ingest(data, patching=True))
        times.cold_bare.append(_timed(lambda: _digest_and_compress(data)))


def _ingest(data: memoryview, *, patching: bool) -> float:
    store, volume = _empty_store(len(data), patching=patching)
    seconds = _timed(lambda: _write(store, volume, data))
    store.close()
    return seconds


def _measure_reads(blocks: images.Blocks, times: _Times) -> None:
    """Only blocks that the store compresses: what is raw has no decompression to be compared with."""
    chosen = [line for line in blocks if len(CODEC.encode(line)) < RAW_FROM_BYTES]
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
    assert patched.read(volume, 0, READ_BYTES) == data[:READ_BYTES]
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
    for entry in volume.entries(0, volume.size_bytes // BLOCK_BYTES):
        row = entry & ID_MASK
        where = where_of[row]
        assert row >= FIRST_ROW and where & ENCODING_MASK == COMPRESSED
        records.append(bytes(view[offset_of(where) : offset_of(where) + size_of(where)]))
    return records


def _digest_and_compress(data: memoryview) -> None:
    Codec().encode_all(data, 1)


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
