"""Stores in a state directory that die: how they are opened, used, copied as a kill leaves them, and judged."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path

from blockstore.store.checks.verify import Verification, steps
from blockstore.store.moves.mover import Mover
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import DirectoryHome
from blockstore.store.steps import Steps
from blockstore.store.steps import run as store_run
from blockstore.store.store import Store
from blockstore.store.tiers.file import FileTier
from blockstore.store.volume import Volume
from tests.store import material
from tests.store.invariants import check_store
from tests.store.material import noise, text

LIMIT_BYTES = 32 << 20


Model = dict[int, bytes]
"""Volume number -> its bytes."""

Operation = Callable[[Store], None]


Line = tuple[str, int]


def void(_: object) -> None:
    """Forget a result, so that a call fits Operation."""


def compact(store: Store) -> None:
    """All that is worth doing."""
    while store.upkeep.step():
        pass


def densify_cold(store: Store) -> None:
    """As the daemon does it: what is in full segments."""
    store.densify.begin(0.0, 0.0)
    while store.densify.step():
        pass


def encode_all(store: Store) -> None:
    """As the daemon does it in time: domains get dictionaries, and all is looked at twice."""
    for hard in (False, True):
        store.recompression.begin_all(hard=hard)
        while store.recompression.step(store.lock) is not None:
            pass


def open_store(path: Path) -> Store:
    return Store(DirectoryHome(path), LIMIT_BYTES)


def tier_of(store: Store) -> FileTier:
    """In a file of the state, so that it goes with it."""
    return FileTier(f"{store.pool._place}/spill", store.id)


def contents(store: Store, volume: Volume) -> bytes:
    """All bytes of a volume, some of which may be in the tier."""
    with closing(tier_of(store)) as tier:
        return material.contents(store, volume, tier)


def run(store: Store, steps: Steps) -> None:
    """Take all of them now."""
    with closing(tier_of(store)) as tier:
        store_run(steps, material.fetch_from(store, tier))


def put(store: Store, volume: Volume, offset: int, data: bytes) -> None:
    """Write all of it now."""
    with closing(tier_of(store)) as tier:
        material.put(store, volume, offset, data, tier)


def page_out(store: Store) -> None:
    """All that is in full segments, and what the first piece has is rewritten with others, or comes back."""
    with closing(tier_of(store)) as tier:
        tier.check()
        mover = Mover(store.paging, store.pool, tier, nullcontext())
        while mover.out():
            pass
        mover.rewrite()
        mover.sweep()


def page_back(store: Store) -> None:
    with closing(tier_of(store)) as tier:
        mover = Mover(store.paging, store.pool, tier, nullcontext())
        for piece in store.pool.pieces.numbers()[:1]:
            mover.back(piece)
        mover.sweep()


def check_tier(store: Store) -> None:
    """As a start does it: nothing is missing, and what nobody needs goes."""
    if os.path.exists(f"{store.pool._place}/spill"):
        with closing(tier_of(store)) as tier:
            tier.check()
            mover = Mover(store.paging, store.pool, tier, nullcontext())
            assert not mover.reconcile()
            mover.sweep()
            assert tier.pieces() == store.pool.pieces.numbers()


def check_old_or_new(store: Store, old: Model, new: Model) -> None:
    """Each block of each volume is what it was before the operation or what it should be after it."""
    assert old.keys() & new.keys() <= store.volumes.keys() <= old.keys() | new.keys()
    for number, volume in store.volumes.items():
        found = contents(store, volume)
        deleted = number not in new
        before, after = old.get(number, b""), bytes(len(old[number])) if deleted else new[number]
        sizes = sorted((len(before), len(after)))
        assert sizes[0] <= len(found) <= sizes[1], f"size {len(found)}, not within {sizes}"
        for start in range(0, len(found), BLOCK_BYTES):
            block = found[start : start + BLOCK_BYTES]
            end = start + len(block)
            allowed = [side[start:end].ljust(len(block), b"\0") for side in (before, after)]
            assert block in allowed, f"volume {number}, block {start // BLOCK_BYTES} is neither old nor new"


def check_usable(path: Path) -> None:
    """Grow and fill everything, then delete everything: what a crash left beyond the tables' edges shows up now."""
    store = open_store(path)
    for volume in list(store.volumes.values()):
        size_bytes = volume.size_bytes
        run(store, store.resize_steps(volume, 800 * BLOCK_BYTES))
        assert not any(store.read(volume, size_bytes, BLOCK_BYTES)), "growing a volume brought back bytes"
        next_block = -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
        assert volume.seek(next_block, data=True) == volume.size_bytes
        put(store, volume, 700 * BLOCK_BYTES, text(volume.number) + noise(volume.number) + text(1))
    check_store(store, decode=True)
    compact(store)
    for volume in list(store.volumes.values()):
        run(store, store.delete_steps(volume))
    check_store(store)
    check_tier(store)
    assert store.rows.live == 0 and not store.pool.pieces.count
    store.close()


def copy_state(path: Path, target: Path) -> None:
    """What SIGKILL would leave at this moment: all is in the files. Holes in them stay holes."""
    target.mkdir(0o700)
    for file in path.iterdir() if path.exists() else ():
        with file.open("rb", buffering=0) as source, (target / file.name).open("wb", buffering=0) as copy:
            size, position = os.fstat(source.fileno()).st_size, 0
            os.truncate(copy.fileno(), size)
            with suppress(OSError):  # ENXIO: no data from here on
                while position < size:
                    start = os.lseek(source.fileno(), position, os.SEEK_DATA)
                    position = os.lseek(source.fileno(), start, os.SEEK_HOLE)
                    os.pwrite(copy.fileno(), os.pread(source.fileno(), position - start, start), start)


class Progress:
    """How many operations of a life were begun, and done."""

    begun = done = 0


def live(life: Sequence[tuple[Operation, object]], path: Path, progress: Progress) -> None:
    """Does all of them with a store in this directory."""
    store = open_store(path)
    for operation, _ in life:
        progress.begun += 1
        operation(store)
        progress.done += 1
    store.close()


def survive(path: Path, line: Line, begun: int, done: int, states: list[Model]) -> str:
    """Look at what one who died at this line has left; a sentence about what is wrong, or nothing."""
    try:
        store = open_store(path)
        check_store(store, decode=True)
        check_tier(store)
        check_old_or_new(store, states[done], states[begun])
        result = Verification()
        run(store, steps(store, result, repair=False))
        assert not result.found, result.findings[0].text
        store.close()
        check_usable(path)
    except Exception as error:
        name = Path(line[0]).name
        return f"{name}:{line[1]} in operation {begun}: {type(error).__name__}: {str(error).splitlines()[0][:150]}"
    return ""
