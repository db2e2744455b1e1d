"""The images of an analysis, and the store in memory that they are put into: anew for each way to store them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from blockstore.analysis.images import Image
from blockstore.errors import CorruptBlock, InputError, OutOfRoom
from blockstore.store.state.geometry import BLOCK_BYTES, BLOCK_SHIFT
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.pool_limit import MINIMUM_LIMIT_BYTES
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume

USABLE_SHARE: Final = 0.9
"""Of the memory that the host has left, the most that the pool takes: the tables and the host need some."""

_NO_ROOM: Final = (
    "the images do not fit into the memory that is left ({} MiB), even shared and compressed; free some, or analyze "
    "fewer at once"
)

Progress = Callable[[str, int, int], None]
"""progress(stage, bytes done, bytes in all)"""


class Workbench:
    """Images in one domain, each a volume whose number is its place among them, from 1 on. For one thread."""

    def __init__(self, images: Sequence[Image], progress: Progress) -> None:
        self.images = images
        self.progress = progress
        self.data_bytes = sum(image.data_bytes for image in images)
        """What is not a hole."""
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """That of the last `feed`."""
        assert self._store is not None
        return self._store

    def feed(self, *, patching: bool) -> float:
        """Puts the images into a new store, and gives up the last one. Returns the processor time that the store took,
        in seconds. Raises InputError, OutOfRoom."""
        self.close()
        store = self._store = Store(MemoryHome(), _pool_limit(self.data_bytes), patching=patching)
        done, cpu_s = 0, 0.0
        try:
            for number, image in enumerate(self.images, 1):
                volume = _new_volume(store, number, image)
                run(store.resize_steps(volume, image.memory_bytes))
                for offset, data in image.pieces():
                    started_s = time.thread_time()
                    run(store.write_steps(volume, offset, data))
                    cpu_s += time.thread_time() - started_s
                    done += len(data)
                    self.progress("reading", done, self.data_bytes)
                image.check_unchanged()
        except OutOfRoom:
            raise self.no_room() from None
        return cpu_s

    def verify(self) -> None:
        """Reads every image again and compares it with its volume. Raises CorruptBlock, InputError."""
        store, done = self.store, 0
        for number, image in enumerate(self.images, 1):
            volume = store.volumes[number]
            for offset, data in image.pieces():
                if store.read(volume, offset, len(data)) != data:
                    image.check_unchanged()
                    raise CorruptBlock(
                        volume.lookup(offset >> BLOCK_SHIFT),
                        f"{image.path} does not read back as it was near byte {offset} of the memory",
                    )
                done += len(data)
                self.progress("verifying", done, self.data_bytes)
            image.check_unchanged()
            expected = sum(-(-extent.length // BLOCK_BYTES) for extent in image.extents)
            if volume.touched_blocks != expected:
                raise CorruptBlock(0, f"{image.path} has {expected} blocks of data, its volume another number")

    def no_room(self) -> OutOfRoom:
        """Returns what to raise when the store is full."""
        return OutOfRoom(_NO_ROOM.format(self.store.pool_figures().limit_bytes >> 20))

    def close(self) -> None:
        """Gives up the store, if there is one."""
        if self._store is not None:
            self._store.close()
            self._store = None


def _new_volume(store: Store, number: int, image: Image) -> Volume:
    try:
        return store.create_volume(number, domain_key=1)
    except OSError as error:  # too many open files
        raise InputError(f"{image.path} cannot be analyzed: {error.strerror}; name fewer images at once") from None


def _pool_limit(data_bytes: int) -> int:
    """Room for all data as it is, so that only the host's memory is a limit."""
    enough = data_bytes + data_bytes // 64 + MINIMUM_LIMIT_BYTES
    return max(min(enough, int(_available_bytes() * USABLE_SHARE)), MINIMUM_LIMIT_BYTES)


def _available_bytes() -> int:
    """What the kernel thinks a new workload can have without swapping (proc_meminfo(5))."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) << 10
    return 1 << 40  # a kernel before 3.14: no limit from here
