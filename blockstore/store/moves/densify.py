"""Temperature: records of cold segments are encoded anew with zstd, which takes a third of them away.

A segment is cold when it was filled some time ago: the records in it are what was written then and is still in use.
Reads do not warm it, because a dense record costs a reader some 5 us more, and what is read often is resident.

Each cold segment is looked at once, and when nothing else is to be done and it is colder still, once more and *hard*:
what is dense is tried with a slower encoder, which makes a little less of it. What gets smaller moves to the head, as
in compaction: the record is appended, then one store of its row's word publishes it, so that a process killed in
between leaves the old record or the new one. The holes are for compaction (upkeep.py).

A patch stays a patch against the same reference. A block of its own may become one, for zstd finds more to copy than
LZ4: against the row that ingest took a note of, or one that the similarity index has learned of since. And a patch that
alone keeps a reference which is in no file any more becomes a block of its own, when that takes less than both.

A fault may wait for each call of `pick`, `look_around` and `replace`, so they are short; `describe` and `encode`, which
are the most of the work, need nothing of the store, nor the interpreter's lock while they work
(plane/codec/recompress.pyi).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from blockstore.errors import CorruptBlock, OutOfRoom
from blockstore.plane.codec.codec import DecodeError
from blockstore.plane.codec.features import FEATURES, find_features, multipliers
from blockstore.plane.codec.recompress import Recompressor
from blockstore.plane.tables.similarity_index import SimilarityIndex
from blockstore.store.codec import CODEC
from blockstore.store.decode import Decoder
from blockstore.store.domains import Domains
from blockstore.store.ingest import PATCH_FROM_BYTES
from blockstore.store.references import may_be_reference, release_references
from blockstore.store.state.geometry import (
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    FIRST_ROW,
    HINT,
    PAGED,
    PATCH_BITS,
    PATCHED,
    RAW,
)
from blockstore.store.state.location import are_paged, are_patches, encodings_of, pack, places_of, size_of, sizes_of
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows
from blockstore.store.steps import NotHere

MINIMUM_BYTES: Final = 256
"""Records that are smaller are a twentieth of all, and all of them together 0.4 % of the bytes."""

GAIN_BYTES: Final = 32
GAIN_SHARE: Final = 0.05
"""A record that gets smaller by less than either stays as it is: it would not be worth its slower reads."""

HARD_GAIN_SHARE: Final = 0.02
"""The same at the second look: reading a dense record takes what it takes, whoever made it."""

HARD_AGE: Final = 20.0
"""Times as old as a cold segment one must be to be looked at a second time: ten minutes, as a rule."""

HARD_SEGMENTS: Final = 32
"""Looked at a second time in one pass: some ten seconds of processor time, for which first looks wait."""

PATCH_GAIN_BYTES: Final = 32
"""What a new patch must save over the block alone: each read decodes its reference as well."""

ENOUGH_SHARE: Final = 0.5
"""Of the record that is there: a block whose patch leaves no more is not tried alone. That would be smaller for one of
a thousand such blocks, and takes half of the time."""

BATCH_BLOCKS: Final = 8
"""Picked, and replaced, in one visit to the store: 0.1 to 0.2 ms each."""

LONE_PATCH_SHARE: Final = 0.25
"""A patch is looked at for the sake of its reference when it is not smaller than this share of it: giving up both for
the block alone saves about as much as the patch takes."""

ROWS_A_STEP: Final = 1 << 14
"""Rows looked at in one step, about 0.1 ms."""


class Cold(NamedTuple):
    """What `encode` has to know of a row, and what must still be so when its new record takes the old one's place.

    `base` is the row of the reference: of a patch, or of what may become one; 0 without. `spared_bytes` is what that
    takes if this patch alone keeps it, else 0."""

    row: int
    where: int
    digest: int
    seed: int
    block: bytes
    base: int = 0
    base_digest: int = 0
    reference: bytes = b""
    spared_bytes: int = 0

    @property
    def is_patch(self) -> bool:
        """Is it one now?"""
        return self.where & PATCH_BITS == PATCH_BITS

    @property
    def size_bytes(self) -> int:
        """Of its record."""
        return size_of(self.where)


class Gain(NamedTuple):
    """A row's smaller record, and whether it is a patch."""

    cold: Cold
    record: bytes
    is_patch: bool


class Described(NamedTuple):
    """Places among those that were picked, all of one domain, and their features."""

    places: list[int]
    features: npt.NDArray[np.uint32]


class Densify:
    """Passes over the rows: writes `where` and `reference` of rows, counts of patches, and the pool."""

    def __init__(self, rows: Rows, pool: Pool, decoder: Decoder, domains: Domains, similarity: SimilarityIndex) -> None:
        self._rows = rows
        self._pool = pool
        self._decoder = decoder
        self._domains = domains
        self._similarity = similarity
        self.is_hard = False
        """Is the pass that is under way one of second looks?"""
        self._cold: npt.NDArray[np.bool_] | None = None
        self._cold_generation = np.empty(0, dtype=np.int64)
        self._scanned = FIRST_ROW
        self._pending: list[int] = []
        self._seeds: dict[int, int] = {}
        self._recompressor = Recompressor(
            BATCH_BLOCKS, gain_bytes=GAIN_BYTES, patch_gain_bytes=PATCH_GAIN_BYTES, enough_share=ENOUGH_SHARE
        )
        self.tried = self.hard_tried = self.replaced = self.saved_bytes = 0
        """Blocks that were tried, and once more, those of them that got smaller records, and by how much."""

    def begin(self, now_s: float, cold_after_s: float) -> bool:
        """Is a pass under way, or is there a cold segment to begin one for? To be asked every few seconds."""
        if self._cold is not None:
            return True
        segments, full = self._pool.segments, np.frombuffer(self._pool.full_segments(), dtype=np.bool_)
        generation, since_s = np.asarray(segments.generation), np.asarray(segments.full_since_s)
        full_generation, first_look = np.asarray(segments.full_generation), np.asarray(segments.first_look)
        fresh = full & (full_generation != generation)
        full_generation[fresh], since_s[fresh] = generation[fresh], now_s
        cold = full & (first_look != generation) & (since_s <= now_s - cold_after_s)
        hard = not cold.any()
        if hard:
            cold = full & (first_look == generation) & (np.asarray(segments.second_look) != generation)
            cold &= since_s <= now_s - HARD_AGE * cold_after_s
            cold[np.flatnonzero(cold)[HARD_SEGMENTS:]] = False
            if not cold.any():
                return False
        self._start(cold, hard=hard)
        return True

    def begin_all(self, *, hard: bool = False) -> None:
        """Begin a pass over everything, however young, the head too."""
        self._start(np.ones(self._pool.segments.count, dtype=np.bool_), hard=hard)

    def pick(self) -> list[Cold] | None:
        """Some records of the pass, decoded; None when it is at its end."""
        if self._cold is None:
            return None
        if not self._pending:
            if self._scanned >= self._rows.next_row:
                segments, cold = self._pool.segments, np.flatnonzero(self._cold)  # the table may have grown since
                looked = np.asarray(segments.second_look if self.is_hard else segments.first_look)
                looked[cold] = self._cold_generation[cold]
                self._cold = None
                return None
            self._scan(self._cold)
        batch, self._pending = self._pending[:BATCH_BLOCKS], self._pending[BATCH_BLOCKS:]
        picked = [found for row in batch if (found := self._decoded(row)) is not None]
        if self.is_hard:
            self.hard_tried += len(picked)
        else:
            self.tried += len(picked)
        return picked

    def describe(self, picked: Sequence[Cold]) -> list[Described]:
        """Those that ingest found no reference for, and their features. Touches nothing but what it is given."""
        alone = [place for place, cold in enumerate(picked) if not cold.base and cold.size_bytes > PATCH_FROM_BYTES]
        found = []
        for seed in {picked[place].seed for place in alone}:
            places = [place for place in alone if picked[place].seed == seed]
            blocks = b"".join([picked[place].block for place in places])
            features = np.empty((len(places), FEATURES), dtype=np.uint32)
            find_features(blocks, np.arange(len(places)), multipliers(seed), features)
            found.append(Described(places, features))
        return found

    def encode(self, picked: Sequence[Cold]) -> list[Gain]:
        """Those that get smaller, at most BATCH_BLOCKS of them. Touches nothing but what it is given; for one thread at
        a time."""
        share = HARD_GAIN_SHARE if self.is_hard else GAIN_SHARE
        records = self._recompressor.encode(picked, hard=self.is_hard, gain_share=share)
        return [Gain(cold, *record) for cold, record in zip(picked, records, strict=True) if record]

    def look_around(self, picked: list[Cold], described: Sequence[Described]) -> None:
        """Give those that were described a reference, if the similarity index knows one."""
        rows = self._rows
        for places, features in described:
            own = np.array([picked[place].row for place in places], dtype=np.uint32)
            found, _ = self._similarity.candidates(features, rows.domain.items[int(own[0])], own)
            for place, base in zip(places, found, strict=True):
                if base and not rows.dependents.items[picked[place].row]:
                    with suppress(CorruptBlock, NotHere):
                        reference = self._decoder.content(base)
                        base_digest = rows.digest.items[base]
                        picked[place] = picked[place]._replace(base=base, base_digest=base_digest, reference=reference)

    def replace(self, gains: Sequence[Gain]) -> bool:
        """Let these rows have their new records, unless they have changed since they were picked; False, and nothing is
        done, when there is no room."""
        rows = self._rows
        still = self._possible_together([gain for gain in gains if self._is_unchanged(gain.cold)])
        if not still:
            return True
        sizes = [len(gain.record) for gain in still]
        try:
            offsets = self._pool.append([gain.record for gain in still], sizes)
        except OutOfRoom:
            self._pending[:0] = [gain.cold.row for gain in still]
            return False
        for gain, offset in zip(still, offsets, strict=True):
            self._publish(gain, offset)
        self._pool.forget(np.array([gain.cold.where for gain in still], dtype=np.uint64))
        given_up = [gain.cold for gain in still if gain.cold.is_patch and not gain.is_patch]
        self.replaced += len(still)
        self.saved_bytes += sum(gain.cold.size_bytes for gain in still) - sum(sizes)
        if given_up:
            self.saved_bytes += sum(cold.spared_bytes for cold in given_up)
            release_references(rows, self._pool, np.array([cold.base for cold in given_up]))
        return True

    def _publish(self, gain: Gain, offset: int) -> None:
        rows, (cold, record, is_patch) = self._rows, gain
        if is_patch and not cold.is_patch:
            rows.reference.items[cold.row] = cold.base
            rows.dependents.items[cold.base] += 1
            rows.mark_changed([cold.base])
        rows.where.items[cold.row] = pack(offset, len(record), DENSE_PATCHED if is_patch else DENSE)

    def _possible_together(self, gains: Sequence[Gain]) -> list[Gain]:
        """Without those for which what has to do with their references has changed, or changes with one of the others:
        they are picked again, as things are by then."""
        possible: list[Gain] = []
        bases: set[int] = set()
        patches: set[int] = set()
        for gain in gains:
            row, base = gain.cold.row, gain.cold.base
            if not self._may_still(gain) or (gain.is_patch and (row in bases or base in patches)):
                self._pending.insert(0, row)
                continue
            possible.append(gain)
            if gain.is_patch:
                bases.add(base)
                patches.add(row)
        return possible

    def step(self) -> bool:
        """All of these, for who has the store to himself; False at the end of the pass, or when there is no room."""
        picked = self.pick()
        if picked is None:
            return False
        self.look_around(picked, self.describe(picked))
        return self.replace(self.encode(picked))

    def _start(self, cold: npt.NDArray[np.bool_], *, hard: bool) -> None:
        self.is_hard = hard
        self._cold, self._cold_generation = cold, np.array(self._pool.segments.generation)
        self._cold_generation[
            ~np.frombuffer(self._pool.full_segments(), dtype=np.bool_)
        ] = -1  # a head is not done, whatever of it was tried
        self._scanned, self._pending = FIRST_ROW, []

    def _scan(self, cold: npt.NDArray[np.bool_]) -> None:
        """Look at some more rows."""
        end = min(self._scanned + ROWS_A_STEP, self._rows.next_row)
        where = self._rows.where.array[self._scanned : end]
        segment, size = places_of(where), sizes_of(where)
        # A limit that was raised since has made segments that are not cold; what is paged is in none.
        tried = _IS_DENSE if self.is_hard else _IS_TRIED
        wanted = tried[encodings_of(where)] & cold.take(segment, mode="clip")
        wanted |= self._are_lone(where, self._rows.reference.array[self._scanned : end], size)
        wanted &= (size >= MINIMUM_BYTES) & ~are_paged(where)
        self._pending = (np.flatnonzero(wanted) + self._scanned).tolist()
        self._scanned = end
        self._seeds = self._domains.seeds()

    def _are_lone(
        self, where: npt.NDArray[np.uint64], reference: npt.NDArray[np.uint32], size: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Which of these rows are patches that alone keep their references, and worth a look for that?"""
        rows, lone = self._rows, np.zeros(len(where), dtype=np.bool_)
        patched = np.flatnonzero(are_patches(where))
        base = np.minimum(reference[patched], rows.capacity - 1)
        spared = sizes_of(rows.where.array[base])
        lone[patched] = (rows.count.array[base] == 0) & (rows.dependents.array[base] == 1)
        lone[patched] &= size[patched] >= LONE_PATCH_SHARE * spared
        return lone

    def _decoded(self, row: int) -> Cold | None:
        """The row, unless it was freed or encoded anew since it was listed, or cannot be read."""
        rows, decoder = self._rows, self._decoder
        where, domain = rows.where.items[row], rows.domain.items[row]
        if domain not in self._seeds or where & PAGED or not where:
            return None
        cold = Cold(row, where, rows.digest.items[row], self._seeds[domain], b"")
        base = rows.reference.items[row] if cold.is_patch else self._base_for(row)
        if cold.is_patch and not FIRST_ROW <= base < rows.capacity:
            return None
        spared_bytes = self._spared_bytes(base) if cold.is_patch else 0
        tried = _IS_DENSE if self.is_hard else _IS_TRIED
        if not (tried[where & ENCODING_MASK] or spared_bytes):
            return None
        try:
            reference = decoder.content(base) if base else b""
            block = CODEC.decode(decoder.record(where), where & ENCODING_MASK, reference or None)
        except (CorruptBlock, DecodeError, NotHere):
            return None  # whoever reads it is told; what is in the tier is cold enough
        return cold._replace(
            block=block,
            base=base,
            base_digest=rows.digest.items[base],
            reference=reference,
            spared_bytes=spared_bytes,
        )

    def _base_for(self, row: int) -> int:
        """What a row that is no patch may become a patch against; 0 if nothing."""
        rows = self._rows
        base = rows.reference.items[row] ^ HINT
        if not FIRST_ROW <= base < rows.capacity or base == row or rows.dependents.items[row]:
            return 0
        return base if may_be_reference(rows, base, rows.domain.items[row]) else 0

    def _spared_bytes(self, base: int) -> int:
        """What the reference of a patch takes if it is kept for that alone."""
        rows = self._rows
        if rows.count.items[base] or rows.dependents.items[base] != 1:
            return 0
        where = rows.where.items[base]
        return 0 if where & PAGED else size_of(where)

    def _is_unchanged(self, cold: Cold) -> bool:
        rows, row = self._rows, cold.row
        return (
            rows.where.items[row] == cold.where
            and rows.digest.items[row] == cold.digest
            and (not cold.is_patch or rows.reference.items[row] == cold.base)
        )

    def _may_still(self, gain: Gain) -> bool:
        """Is what has to do with the reference as it was, too?"""
        rows, (cold, _, is_patch) = self._rows, gain
        if is_patch == cold.is_patch:
            return True
        if cold.is_patch:
            return self._spared_bytes(cold.base) == cold.spared_bytes
        is_same = rows.digest.items[cold.base] == cold.base_digest
        is_free = not rows.dependents.items[cold.row]
        return is_same and is_free and may_be_reference(rows, cold.base, rows.domain.items[cold.row])


_IS_TRIED: Final = np.isin(np.arange(ENCODING_MASK + 1), (RAW, COMPRESSED, PATCHED))
_IS_DENSE: Final = np.isin(np.arange(ENCODING_MASK + 1), (DENSE, DENSE_PATCHED))
