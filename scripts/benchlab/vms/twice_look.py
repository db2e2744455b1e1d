"""`twice_look.py MOUNT STATE`: which records of the pool are of blocks that are resident at the same time, as JSON.

Looking changes nothing: cachestat(2) faults no page in, and the tables are read as files of the state. mincore(2) would
need a mapping, and when one of a FUSE file is undone the kernel writes back all that is dirty of the file. The tables
are read while the daemon works, and one after the other: of some hundred thousand blocks a few dozen that are written
at that moment may be counted wrongly.

A page that is dirty, or is being written back, has a record that is stale: garbage as soon as it has been written back.
A record is counted once, however many blocks have it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    FIRST_ROW,
    ID_MASK,
    PAGED,
    PATCH_BITS,
    SIZE_MASK,
    SIZE_SHIFT,
)
from blockstore.store.volume import HEADER_BYTES, file_name
from blockstore.vm import resident

_SINGLY: Final = 8
"""Pages: of no more than these it is asked page by page, for halving them further would ask more often."""

Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[Any]


class Pages(NamedTuple):
    """Of one volume, by block: its map entries (u64), whether the page is resident, whether it is dirty."""

    entries: Words
    is_resident: Flags
    is_dirty: Flags


@dataclass(frozen=True)
class Twice:
    """In bytes. The first three are of pages, the rest of records in the pool that a block has."""

    resident: int
    clean: int
    """Of the resident pages."""
    clean_with_record: int
    """Of the clean ones; the others are zero, and take no record."""
    records: int
    any_resident: int
    all_resident: int
    """Records that blocks have of which any, and all, are resident."""
    any_clean: int
    all_clean: int
    """The same of blocks that are resident and clean."""
    all_dirty: int
    """Records that are stale."""
    unneeded: int
    """Of `all_clean`, those that are no reference of a patch that is needed: all that could be given up at most."""


def command(mount: Path, state: Path) -> list[str | Path]:
    """A process of its own does it, so that it can be ended."""
    return [sys.executable, "-P", __file__, mount, state]


def count(where: Words, reference: Words, volumes: Sequence[Pages]) -> Twice:
    """Of rows with these location words (u64) and references (u32), and of all volumes that may point at them."""
    sizes = np.where(where & np.uint64(PAGED), 0, where >> np.uint64(SIZE_SHIFT) & np.uint64(SIZE_MASK)).astype(
        np.int64
    )
    blocks, resident, clean, dirty = (np.zeros(len(where), dtype=np.int64) for _ in range(4))
    with_record = 0
    for volume in volumes:
        rows = (volume.entries & np.uint64(ID_MASK)).astype(np.int64)
        has_record = (rows >= FIRST_ROW) & (rows < len(where))
        is_clean = volume.is_resident & ~volume.is_dirty
        with_record += int((is_clean & has_record).sum())
        for counts, which in (
            (blocks, has_record),
            (resident, has_record & volume.is_resident),
            (clean, has_record & is_clean),
            (dirty, has_record & volume.is_dirty),
        ):
            counts += np.bincount(rows[which], minlength=len(where))
    in_use = blocks > 0
    all_clean = in_use & (clean == blocks)
    return Twice(
        resident=BLOCK_BYTES * sum(int(volume.is_resident.sum()) for volume in volumes),
        clean=BLOCK_BYTES * sum(int((volume.is_resident & ~volume.is_dirty).sum()) for volume in volumes),
        clean_with_record=BLOCK_BYTES * with_record,
        records=int(sizes[in_use].sum()),
        any_resident=int(sizes[resident > 0].sum()),
        all_resident=int(sizes[in_use & (resident == blocks)].sum()),
        any_clean=int(sizes[clean > 0].sum()),
        all_clean=int(sizes[all_clean].sum()),
        all_dirty=int(sizes[in_use & (dirty == blocks)].sum()),
        unneeded=int(sizes[all_clean & ~_needed(where, reference, all_clean)].sum()),
    )


def _needed(where: Words, reference: Words, given_up: Flags) -> Flags:
    """Rows that are the reference of a patch which is not given up."""
    is_patch = (where & np.uint64(PATCH_BITS) == np.uint64(PATCH_BITS)) & ~given_up
    named = reference[is_patch]
    needed = np.zeros(len(where), dtype=bool)
    needed[named[named < len(where)]] = True
    return needed


def tables_of(state: Path) -> tuple[Words, Words]:
    """Returns where (u64) and reference (u32) of all rows of a state."""
    where, reference = np.fromfile(state / "rows-where", "<u8"), np.fromfile(state / "rows-reference", "<u4")
    rows = min(len(where), len(reference))  # one may have grown before the other
    return where[:rows], reference[:rows]


def entries_of(state: Path, volume: int, blocks: int) -> Words:
    """Returns the map entries (u64) of a volume; holes beyond the end of its map."""
    found = np.fromfile(state / file_name(volume), "<u8", blocks, offset=HEADER_BYTES)
    return np.pad(found, (0, blocks - len(found)))


def pages_of(descriptor: int, pages: int) -> tuple[Flags, Flags]:
    """Returns for each page of an open file whether it is resident, and whether it is dirty or being written back.
    Raises OSError."""
    is_resident, is_dirty = np.zeros(pages, dtype=bool), np.zeros(pages, dtype=bool)
    ranges = [(0, pages)] if pages else []
    while ranges:
        first, end = ranges.pop()
        size_bytes = (end - first) * BLOCK_BYTES
        part = resident.of_descriptor(descriptor, first * BLOCK_BYTES, size_bytes)
        dirty_bytes = part.dirty + part.written_back
        if end - first == 1 or (part.resident in (0, size_bytes) and dirty_bytes in (0, part.resident)):
            is_resident[first:end], is_dirty[first:end] = part.resident > 0, dirty_bytes > 0
        elif end - first > _SINGLY:
            middle = (first + end) // 2
            ranges += [(first, middle), (middle, end)]
        else:
            ranges += [(page, page + 1) for page in range(first, end)]
    return is_resident, is_dirty & is_resident


def look(mount: Path, state: Path) -> Twice:
    """Looks at all files at the top of the mount, also those that no VM runs on. Raises OSError."""
    seen: list[tuple[int, Flags, Flags]] = []
    for path in sorted(path for path in mount.iterdir() if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            seen.append((found.st_ino, *pages_of(descriptor, -(-found.st_size // BLOCK_BYTES))))
        finally:
            os.close(descriptor)
    volumes = [Pages(entries_of(state, number, len(here)), here, dirty) for number, here, dirty in seen]
    return count(*tables_of(state), volumes)


if __name__ == "__main__":
    print(json.dumps(asdict(look(Path(sys.argv[1]), Path(sys.argv[2])))))
