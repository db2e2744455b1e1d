"""What the store would save on memory images that exist already: they go into a store in memory, no mount.

All images are in one domain, each is a volume. The same blocks are also counted as identical-page sharing
alone (KSM) and compression alone (zram with lz4) would have stored them. A hole of a sparse image is memory
that the VM never touched, and counts as such; zeros that are written out in the image count as touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from blockstore.analysis.images import Image, open_all
from blockstore.errors import CorruptBlock, InputError, OutOfRoom
from blockstore.store.accounting import census, comparison
from blockstore.store.accounting.report import Report, describe
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


def analyze(
    paths: Sequence[str],
    *,
    patching: bool = True,
    cold: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
) -> Report:
    """The report (store/accounting/report.py) of these images, with the fields of a Comparison (comparison.py, there)
    in its total. With `cold` also `stored_cold`: the records, were all of them cold.

    Raises InputError for an image that cannot be used, OutOfRoom when memory does not suffice, and with
    `verify` CorruptBlock when an image does not read back as it was.
    """
    progress = progress or _unheard
    with ExitStack() as stack:
        images = open_all(paths, stack)
        in_all = sum(image.data_bytes for image in images)
        store = Store(MemoryHome(), _pool_limit(in_all), patching=patching)
        stack.callback(store.close)
        _feed(store, images, in_all, progress)
        if verify:
            _verify(store, images, in_all, progress)
        progress("comparing", in_all, in_all)
        report = describe(census.take(store), dict(enumerate(_names(paths), 1)))
        for figures in (*report["volumes"].values(), report["total"]):
            figures |= {"blocks": figures["touched_blocks"], "bytes": figures["touched"]}
        report["total"] |= comparison.compare(store, zeros=report["total"]["zero_blocks"] > 0)._asdict()
        if cold:
            report["total"]["stored_cold"] = _stored_cold(store, progress)
            if verify:
                _verify(store, images, in_all, progress)
        return report


def _stored_cold(store: Store, progress: Progress) -> int:
    """The bytes of records after all were encoded anew."""
    recompression, blocks = store.recompression, store.live_contents
    for hard in (False, True):
        recompression.begin_all(hard=hard)
        while (went_on := recompression.step(store.lock)) is not None:
            if not went_on:
                raise _no_room(store)
            progress("encoding anew", recompression.looks * BLOCK_BYTES, 2 * blocks * BLOCK_BYTES)
    return store.record_bytes


def _feed(store: Store, images: list[Image], in_all: int, progress: Progress) -> None:
    done = 0
    try:
        for number, image in enumerate(images, 1):
            volume = _new_volume(store, number, image)
            run(store.resize_steps(volume, image.memory_bytes))
            for offset, data in image.pieces():
                run(store.write_steps(volume, offset, data))
                done += len(data)
                progress("reading", done, in_all)
            image.check_unchanged()
    except OutOfRoom:
        raise _no_room(store) from None


def _no_room(store: Store) -> OutOfRoom:
    return OutOfRoom(_NO_ROOM.format(store.pool_figures().limit_bytes >> 20))


def _new_volume(store: Store, number: int, image: Image) -> Volume:
    try:
        return store.create_volume(number, domain_key=1)
    except OSError as error:  # too many open files
        raise InputError(f"{image.path} cannot be analyzed: {error.strerror}; name fewer images at once") from None


def _verify(store: Store, images: list[Image], in_all: int, progress: Progress) -> None:
    """Read every image again and compare it with its volume."""
    done = 0
    for number, image in enumerate(images, 1):
        volume = store.volumes[number]
        for offset, data in image.pieces():
            if store.read(volume, offset, len(data)) != data:
                image.check_unchanged()
                raise CorruptBlock(
                    volume.lookup(offset >> BLOCK_SHIFT),
                    f"{image.path} does not read back as it was near byte {offset} of the memory",
                )
            done += len(data)
            progress("verifying", done, in_all)
        image.check_unchanged()
        expected = sum(-(-extent.length // BLOCK_BYTES) for extent in image.extents)
        if volume.touched_blocks != expected:
            raise CorruptBlock(0, f"{image.path} has {expected} blocks of data, its volume another number")


def _names(paths: Sequence[str]) -> list[str]:
    """The base names; where several images have the same, their paths as they were given."""
    times = Counter(Path(path).name for path in paths)
    names = [Path(path).name if times[Path(path).name] == 1 else path for path in paths]
    return names if len(set(names)) == len(names) else list(paths)


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


def _unheard(stage: str, done: int, in_all: int) -> None:
    del stage, done, in_all
