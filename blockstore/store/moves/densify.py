"""Temperature: records of cold segments are encoded anew with zstd, which takes a third of them away.

A segment is cold when it was filled some time ago: the records in it are what was written then and is still in use.
Reads do not warm it, because a dense record costs a reader some 5 us more, and what is read often is resident.

Each cold segment is looked at once, and when nothing else is to be done and it is colder still, once more and *hard*:
what is dense is tried with a slower encoder, which makes a little less of it. What gets smaller moves to the head, as
in compaction: the record is appended, then one store of its row's word publishes it, so that a process killed in
between leaves the old record or the new one. The holes are for compaction (upkeep.py).

A block alone is encoded with the dictionary of its domain, if that has one (training.py). At its second look one that
was encoded without it, or with an older one, is tried with it, so that in time nothing needs the older one.

A patch stays a patch against the same reference. A block of its own may become one, for zstd finds more to copy than
LZ4: against the row that ingest took a note of, or one that the similarity index has learned of since. And a patch that
alone keeps a reference which is in no file any more becomes a block of its own, when that takes less than both.

A fault may wait for each `replace`, so it is short; all else needs neither the store lock nor the interpreter's. What
is done for each row and each block is compiled (plane/moves/); here stands which, when, and from what gain on.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

from blockstore.errors import OutOfRoom
from blockstore.plane.blocks.commit import Commit
from blockstore.plane.moves.cold_scan import ColdScan
from blockstore.plane.moves.cold_segments import ColdSegments
from blockstore.plane.moves.reencode import Reencoder
from blockstore.plane.sync.lock import StoreLock
from blockstore.plane.tables.similarity_index import SimilarityIndex
from blockstore.plane.tables.tables import Tables
from blockstore.store.dictionaries import Dictionaries
from blockstore.store.domains import Domains
from blockstore.store.ingest import PATCH_FROM_BYTES
from blockstore.store.state.geometry import (
    COMPRESSED,
    DENSE,
    DENSE_FIRST,
    DENSE_PATCHED,
    DENSE_SECOND,
    PATCHED,
    RAW,
)
from blockstore.store.state.pool import COMPACTION_RESERVE_SEGMENTS, Pool
from blockstore.store.state.rows import MAXIMUM_DEPENDENTS

MINIMUM_BYTES: Final = 256
"""Records that are smaller are a twentieth of all, and all of them together 0.4 % of the bytes."""

GAIN_BYTES: Final = 32
GAIN_SHARE: Final = 0.05
"""A record that gets smaller by less than either stays as it is: it would not be worth its slower reads."""

HARD_GAIN_SHARE: Final = 0.01
"""All that one must save at the second look: reading a dense record takes what it takes, whoever made it."""

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
"""Picked and encoded together, some 0.4 ms, and replaced in one visit to the store, some 20 us."""

LENT_BLOCKS: Final = 16
"""Of a batch for a cold encoder: some 0.8 ms of its work, and 40 us at the store to replace them."""

MOST_LENT: Final = 16
"""Batches that cold encoders have at once, 0.5 MiB each with the tables of zstd."""

HARD_BLOCKS: Final = 1
"""Encoded in one step when they are encoded hard, which takes up to 0.5 ms for each."""

LONE_PATCH_SHARE: Final = 0.25
"""A patch is looked at for the sake of its reference when it is not smaller than this share of it: giving up both for
the block alone saves about as much as the patch takes."""

ROWS_A_STEP: Final = 1 << 14
"""Rows looked at in one step, about 0.1 ms."""

_FIRST_LOOK: Final = 1 << RAW | 1 << COMPRESSED | 1 << PATCHED
_SECOND_LOOK: Final = 1 << DENSE | 1 << DENSE_FIRST | 1 << DENSE_SECOND | 1 << DENSE_PATCHED
"""Encodings that are tried: a bit for each."""

_NO_LOCK: Final[AbstractContextManager[object]] = nullcontext()


class Densify:
    """Passes over the rows: writes `where` and `reference` of rows, counts of patches, and the pool.

    All methods are for one thread, which picks, and publishes; encoding may be lent to others. Those that take a lock
    take it for themselves; who has the store to himself gives none."""

    def __init__(
        self,
        pool: Pool,
        domains: Domains,
        dictionaries: Dictionaries,
        similarity: SimilarityIndex,
        tables: Tables,
        commit: Commit,
    ) -> None:
        self._pool = pool
        self._domains = domains
        self._similarity = similarity
        self._commit = commit
        self._dictionaries = dictionaries
        self.is_hard = False
        """Is the pass that is under way one of second looks?"""
        self._is_under_way = False
        self._cold = ColdSegments()
        self._scan = ColdScan(tables, self._cold, ROWS_A_STEP, minimum_bytes=MINIMUM_BYTES, lone_share=LONE_PATCH_SHARE)
        self._batch: Reencoder | None = None
        """The one that is encoded here, while a pass is under way."""
        self._spare: list[Reencoder] = []
        """To be lent, while a pass is under way."""
        self._lent = 0
        self.tried = self.hard_tried = 0
        """Blocks that were tried, and once more."""
        self.replaced = self.saved_bytes = 0
        """How often a block has got a smaller record, and by how much, with the references that were given up."""

    @property
    def is_under_way(self) -> bool:
        """Has a pass begun that has not come to its end?"""
        return self._is_under_way

    def begin(self, now_s: float, cold_after_s: float) -> bool:
        """Is a pass under way, or is there a cold segment to begin one for? To be asked every few seconds, with the
        store lock."""
        if self._is_under_way:
            return True
        self._look()
        table, cold = self._pool.segments, self._cold
        cold.note_full(table.full_generation, table.full_since_s, now_s)
        is_hard = not cold.choose_first(table.first_look, table.full_since_s, now_s - cold_after_s)
        if is_hard and not cold.choose_second(
            table.first_look, table.second_look, table.full_since_s, now_s - HARD_AGE * cold_after_s, HARD_SEGMENTS
        ):
            return False
        self._start(hard=is_hard)
        return True

    def begin_all(self, *, hard: bool = False) -> None:
        """Begin a pass over everything, however young, the head too. With the store lock."""
        self._look()
        self._cold.choose_all()
        self._start(hard=hard)

    def pick(self, lock: StoreLock | None = None) -> bool:
        """Picks a batch, which may be empty; False when there is nothing more to pick. That is the end of the pass,
        unless batches are lent: what is put back from these is picked again."""
        if not self._is_under_way:
            return False
        if self._batch is None:
            self._batch = self._new_batch(BATCH_BLOCKS)
        return self._pick_into(self._batch, lock)

    def encode(self) -> bool:
        """Encodes the batch, or HARD_BLOCKS of it; False when some of it is left."""
        if self._batch is None:
            return True
        if self.is_hard:
            self.hard_tried += self._batch.encode(HARD_BLOCKS, hard=True, gain_share=HARD_GAIN_SHARE)
        else:
            self.tried += self._batch.encode(BATCH_BLOCKS, hard=False, gain_share=GAIN_SHARE)
        return not self._batch.left

    def replace(self, lock: StoreLock | None = None) -> bool:
        """Lets the blocks of the batch have their smaller records, unless they have changed since they were picked.
        Returns False, and nothing is done, when there is no room."""
        return self._batch is None or self._replace(self._batch, lock)

    def step(self, lock: StoreLock | None = None) -> bool | None:
        """Encodes a batch, or a part of it, and replaces it when all of it is encoded. Returns None when there is
        nothing more to pick, False without room."""
        if (self._batch is None or not self._batch.left) and not self.pick(lock):
            return None
        if not self.encode() or self._batch is None or not self._batch.has_gained:
            return True
        return self._replace(self._batch, lock)

    def lend(self, lock: StoreLock | None = None) -> Reencoder | None:
        """Picks a batch for a cold encoder to work on, which may be empty. Returns None when there is nothing more to
        pick, or MOST_LENT are lent."""
        if not self._is_under_way or self._lent == MOST_LENT:
            return None
        if self._batch is not None and self._batch.left:  # nobody else would go on with it, and the pass never be over
            self._batch.put_back(self._scan)
        batch = self._spare.pop() if self._spare else self._new_batch(LENT_BLOCKS)
        if not self._pick_into(batch, lock):
            if self._is_under_way:
                self._spare.append(batch)
            return None
        batch.prepare(hard=self.is_hard, gain_share=HARD_GAIN_SHARE if self.is_hard else GAIN_SHARE)
        self._lent += 1
        return batch

    def settle(self, batch: Reencoder, lock: StoreLock | None = None) -> bool:
        """Does what `replace` does for a batch that was lent. What was not encoded of it will be picked again."""
        self._lent -= 1
        self._spare.append(batch)
        if self.is_hard:
            self.hard_tried += batch.encoded
        else:
            self.tried += batch.encoded
        return self._replace(batch, lock)

    def give_back(self) -> None:
        """Gives memory back that is of use only to cold encoders, unless they have some of it."""
        self._spare.clear()

    def _new_batch(self, most_blocks: int) -> Reencoder:
        return Reencoder(
            self._commit,
            self._similarity,
            self._pool.epochs,
            most_blocks,
            gain_bytes=GAIN_BYTES,
            patch_gain_bytes=PATCH_GAIN_BYTES,
            enough_share=ENOUGH_SHARE,
            described_from_bytes=PATCH_FROM_BYTES,
            most_dependents=MAXIMUM_DEPENDENTS,
        )

    def _pick_into(self, batch: Reencoder, lock: StoreLock | None) -> bool:
        if not self._scan.pending and not self._scan.step():
            if not self._lent:
                self._finish(lock)
            return False
        for index in batch.pick(self._scan):
            domain = self._domains.at(index)
            if domain is not None:
                encoder = self._dictionaries.encoder(index, hard=self.is_hard)
                batch.describe(index, domain.seed, domain.multipliers, encoder)
        return True

    def _finish(self, lock: StoreLock | None) -> None:
        with lock or _NO_LOCK:
            table = self._pool.segments
            self._cold.finish(table.second_look if self.is_hard else table.first_look)
        self._is_under_way, self._batch = False, None
        self.give_back()

    def _replace(self, batch: Reencoder, lock: StoreLock | None) -> bool:
        before = batch.replaced, batch.saved_bytes
        try:
            if not batch.replace(self._scan, COMPACTION_RESERVE_SEGMENTS, lock):
                with lock or _NO_LOCK:
                    self._replace_with_room(batch)
        except OutOfRoom:
            batch.put_back(self._scan)
            return False
        finally:
            self.replaced += batch.replaced - before[0]
            self.saved_bytes += batch.saved_bytes - before[1]
        if self._pool.log.has_let_go:
            with lock or _NO_LOCK:
                self._pool.take_back()
        return True

    def _replace_with_room(self, batch: Reencoder) -> None:
        self._pool.take_back()
        self._pool.make_room_for(batch.record_bytes, COMPACTION_RESERVE_SEGMENTS)
        if not batch.replace(self._scan, COMPACTION_RESERVE_SEGMENTS, None):
            raise self._pool.append_error()

    def _look(self) -> None:
        table, log = self._pool.segments, self._pool.log
        self._cold.look(table.generation, table.has_memory, table.is_retired, log.head, log.spare)

    def _start(self, *, hard: bool) -> None:
        self.is_hard, self._is_under_way = hard, True
        self._scan.begin(_SECOND_LOOK if hard else _FIRST_LOOK)
