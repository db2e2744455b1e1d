"""The write path: a slice of whole blocks becomes rows, records and map entries (docs/architecture.md).

In three parts. *Find*: which contents are stored already. *Encode*: what the others shall be stored as. Both only
read. Then room is made and the records are appended, and only then *commit* writes, which cannot fail: rows,
index, map entries. At last the old rows are released, so that a process killed at any instruction leaves every
block old or new.

A slice is small (SLICE_BLOCKS), because nothing else happens meanwhile, and large enough that numpy's fixed
costs do not count. The hot path of the store; its benchmark is `scripts/bench engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from blockstore.errors import CorruptBlock
from blockstore.store.codec import Buffer, compress_all, digest, make_patch
from blockstore.store.content_index import ContentIndex
from blockstore.store.decode import Decoder, NotHere
from blockstore.store.features import FeatureMaker
from blockstore.store.geometry import (
    BLOCK_BYTES,
    CHECK_MASK,
    COMPRESSED,
    FIRST_ROW,
    HINT,
    OFFSET_SHIFT,
    PATCHED,
    RAW,
    SIZE_SHIFT,
    ZERO,
    ZERO_BLOCK,
    ZERO_ENTRY,
)
from blockstore.store.pool import COMPACTION_RESERVE_SEGMENTS, Pool
from blockstore.store.references import acquire, release, rows_of
from blockstore.store.rows import Rows
from blockstore.store.similarity_index import SimilarityIndex
from blockstore.store.volume import Domain, Volume

_CHECK: Final = np.uint64(CHECK_MASK)
_HINT: Final = np.uint32(HINT)

SLICE_BLOCKS: Final = 128
"""Blocks written in one go: about 1.3 ms, in which a fault of another VM waits."""

BREATH_BLOCKS: Final = 16
"""Blocks that are compared or compressed from one breath to the next, a tenth of a millisecond; a quarter of that
when patches are made."""

RAW_FROM_BYTES: Final = 3968
"""A block that LZ4 does not bring below this is stored raw: 3 % saved is not worth a decode at each read."""

PATCH_FROM_BYTES: Final = 1024
"""A block that compresses below this is neither worth a patch nor good as a reference: these are a sixth of the
patches and a thirtieth of what patches save."""

LONE_HINT_FROM_BYTES: Final = 2048
"""A candidate that only one feature hints at is tried for blocks that compress to no less than this. Below, a try
saves some 150 bytes and costs as much as compressing two blocks."""

PATCH_GAIN_BYTES: Final = 64
"""What a patch must save over the compressed block. It stands for the reference: its row stays as long as the
patch does, and each read decodes it as well."""


class Extent(NamedTuple):
    """Whole blocks to be written to a volume, from block `first` on."""

    volume: Volume
    first: int
    data: memoryview

    @property
    def blocks(self) -> int:
        return len(self.data) // BLOCK_BYTES


@dataclass(slots=True)
class _Encoded:
    """Contents that need new rows, by place in the slice; one entry of each array a content."""

    places: list[int]
    digests: npt.NDArray[np.uint64]
    records: list[Buffer]
    sizes: npt.NDArray[np.int64]
    encodings: npt.NDArray[np.uint8]
    references: npt.NDArray[np.uint32]
    features: npt.NDArray[np.uint32] | None = None
    featured: npt.NDArray[np.int64] | None = None  # which of them `features` are of


class Ingest:
    """Writes rows, pool, both indexes and the maps of the volumes it is given."""

    def __init__(
        self,
        rows: Rows,
        pool: Pool,
        content: ContentIndex,
        similarity: SimilarityIndex,
        decoder: Decoder,
        *,
        patching: bool,
    ) -> None:
        self._rows = rows
        self._pool = pool
        self._content = content
        self._similarity = similarity
        self._decoder = decoder
        self._feature_maker = FeatureMaker(SLICE_BLOCKS)
        self.patching = patching
        self.breathe: Callable[[], None] = _go_on
        """Called every tenth of a millisecond or so while a slice is encoded. Nothing has been changed then, and
        whoever owns the store may read from it; nothing else."""

    def write(
        self, domain: Domain, extents: Sequence[Extent], reserved_segments: int = COMPACTION_RESERVE_SEGMENTS
    ) -> None:
        """Store extents of volumes of one domain, together at most SLICE_BLOCKS, which the volumes' maps cover. Where
        two overlap the later one counts.

        The blocks of a single extent are looked at where they lie: copying them would cost a twentieth of all.
        Raises OutOfRoom, and then nothing has changed.
        """
        data = extents[0].data if len(extents) == 1 else memoryview(b"".join(extent.data for extent in extents))
        count = len(data) // BLOCK_BYTES
        blocks = [data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES)]
        digests = np.fromiter(map(digest, blocks, repeat(domain.seed)), dtype=np.uint64, count=count)
        self.breathe()
        ids, missing = self._find(domain, blocks, digests)
        encoded = self._encode(domain, data, blocks, digests, missing) if missing else None
        self.breathe()
        for extent in extents:
            extent.volume.prepare(extent.first, extent.blocks)
        if encoded is not None:
            self._reserve(encoded)
            offsets = self._pool.append(encoded.records, encoded.sizes, reserved_segments)
            ids[encoded.places] = self._commit(domain, encoded, offsets)
            if len(missing) > len(encoded.places):
                self._share_repeats(blocks, ids, encoded.places, missing)
        entries = digests & _CHECK | ids.astype(np.uint64)
        entries[ids == ZERO] = ZERO_ENTRY
        acquire(self._rows, ids[ids >= FIRST_ROW])
        release(self._rows, self._pool, rows_of(self._rows, _publish(extents, entries)))

    def _find(
        self, domain: Domain, blocks: list[memoryview], digests: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.int64], list[int]]:
        """The id of each block that is zero or stored already, and the places of those that are not."""
        ids = np.zeros(len(blocks), dtype=np.int64)
        for number, place in enumerate(np.flatnonzero(self._content.may_have(digests, self._rows)).tolist()):
            if not number % BREATH_BLOCKS:
                self.breathe()
            for row in self._content.find(int(digests[place]), self._rows, domain.index):
                if self._has(row, blocks[place]):
                    ids[place] = row
                    break
        for place in np.flatnonzero(digests == np.uint64(domain.zero_digest)).tolist():
            if bytes(blocks[place]) == ZERO_BLOCK:
                ids[place] = ZERO
        return ids, np.flatnonzero(ids == 0).tolist()

    def _has(self, row: int, block: memoryview) -> bool:
        try:
            return self._decoder.content(row) == bytes(block)  # a memoryview compares item by item
        except (CorruptBlock, NotHere):
            return False  # nothing new may be tied to damage, which its reader reports; and no write waits for a tier

    def _encode(
        self,
        domain: Domain,
        data: memoryview,
        blocks: list[memoryview],
        digests: npt.NDArray[np.uint64],
        missing: list[int],
    ) -> _Encoded:
        """What each content that is missing would be stored as; each content once."""
        places = missing
        if len(set(digests[missing].tolist())) < len(missing):
            places = list({bytes(blocks[place]): place for place in reversed(missing)}.values())
        fresh = [blocks[place] for place in places]
        records: list[Buffer] = []
        for start in range(0, len(fresh), BREATH_BLOCKS):
            records += compress_all(fresh[start : start + BREATH_BLOCKS])
            self.breathe()
        count = len(records)
        sizes = np.fromiter(map(len, records), dtype=np.int64, count=count)
        encodings = np.full(count, COMPRESSED, dtype=np.uint8)
        for place in np.flatnonzero(sizes >= RAW_FROM_BYTES).tolist():
            records[place], sizes[place], encodings[place] = fresh[place], BLOCK_BYTES, RAW
        encoded = _Encoded(places, digests[places], records, sizes, encodings, np.zeros(count, dtype=np.uint32))
        if self.patching:
            self._patch(domain, data, fresh, encoded)
        return encoded

    def _patch(self, domain: Domain, data: memoryview, fresh: list[memoryview], encoded: _Encoded) -> None:
        """Replace records by patches where these are smaller."""
        eligible = (encoded.encodings == COMPRESSED) & (encoded.sizes > PATCH_FROM_BYTES)
        featured = np.flatnonzero(eligible)
        if not len(featured):
            return
        features = self._feature_maker.features(data, np.array(encoded.places)[featured], domain.multipliers)
        self.breathe()
        candidates, hints = self._similarity.candidates(features, self._rows, domain.index)
        # Not good enough for LZ4, it may be for zstd, when both are cold (densify.py).
        encoded.references[featured] = np.where(candidates, candidates | _HINT, 0)
        candidates[(hints == 1) & (encoded.sizes[featured] < LONE_HINT_FROM_BYTES)] = 0
        tried = np.flatnonzero(candidates)
        places, content = featured[tried], self._decoder.content
        patched: list[tuple[int, int, int]] = []
        tries = zip(places.tolist(), candidates[tried].tolist(), encoded.sizes[places].tolist(), strict=True)
        for number, (place, candidate, size) in enumerate(tries):
            if not number % (BREATH_BLOCKS // 4):
                self.breathe()
            try:
                patch = make_patch(fresh[place], content(candidate))
            except (CorruptBlock, NotHere):
                continue
            if len(patch) < size - PATCH_GAIN_BYTES:
                encoded.records[place] = patch
                patched.append((place, candidate, len(patch)))
        if patched:
            done, references, lengths = zip(*patched, strict=True)
            places = np.array(done)
            encoded.sizes[places], encoded.encodings[places], encoded.references[places] = lengths, PATCHED, references
        kept = encoded.encodings[featured] == COMPRESSED  # a patch is no reference
        encoded.features, encoded.featured = features[kept], featured[kept]

    def _reserve(self, encoded: _Encoded) -> None:
        count = len(encoded.places)
        self._rows.reserve(count)
        self._content.reserve(count, self._rows)
        if encoded.featured is not None:
            self._similarity.reserve(len(encoded.featured), self._rows.live)

    def _commit(self, domain: Domain, encoded: _Encoded, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """New rows for these contents; their counts are still 0."""
        rows = self._rows
        new = rows.take(len(encoded.places))
        rows.digest.array[new] = encoded.digests
        rows.reference.array[new] = encoded.references
        rows.domain.array[new] = domain.index
        rows.where.array[new] = offsets << OFFSET_SHIFT | encoded.sizes << SIZE_SHIFT | encoded.encodings
        used = encoded.references[encoded.encodings == PATCHED]
        if len(used):
            np.add.at(rows.dependents.array, used, 1)
            rows.mark_changed(used.astype(np.int64))
        self._content.enter(encoded.digests, new)
        if encoded.features is not None and encoded.featured is not None:
            self._similarity.enter(encoded.features, new[encoded.featured], rows)
        return new

    def _share_repeats(
        self, blocks: list[memoryview], ids: npt.NDArray[np.int64], places: list[int], missing: list[int]
    ) -> None:
        """Contents that came several times in this slice: all but the first take its row."""
        row_of = {bytes(blocks[place]): ids[place] for place in places}
        for place in missing:
            ids[place] = row_of[bytes(blocks[place])]


def _go_on() -> None:
    pass


def _publish(extents: Sequence[Extent], entries: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Let the maps have these entries; those that they had."""
    if len(extents) == 1:
        return extents[0].volume.replace(extents[0].first, entries)
    old, start = [], 0
    for extent in extents:
        old.append(extent.volume.replace(extent.first, entries[start : start + extent.blocks]))
        start += extent.blocks
    return np.concatenate(old)
