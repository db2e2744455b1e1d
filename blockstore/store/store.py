"""The Store: volumes of blocks, kept once for all that have the same content. The face of this package.

Everything that changes a volume is a sequence of steps (steps.py), which changes.py takes. What is not for volumes
stands in four objects: `remote` (blocks that are due from other hosts), `recompression`, a `mover` for each tier, and
`fetch.read` for what is not here. The tables are for modules of this package; those above reach none of them
(tests/test_wall.py).

One thread at a time may use a Store: the one that has its `lock`. Steps take the lock themselves, and encode what they
write without it. Whoever calls anything else takes the lock around it. Lanes read without it (`lane`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from typing import Any

from blockstore.errors import OutOfRoom
from blockstore.plane.blocks.commit import Commit
from blockstore.plane.blocks.encode import Batch
from blockstore.plane.serve.encoders import Encoders
from blockstore.plane.serve.lane import Lane
from blockstore.plane.serve.requests import Requests
from blockstore.plane.sync.lock import StoreLock
from blockstore.plane.tables import similarity_index
from blockstore.plane.tables.content_index import FIRST_SLOTS, ContentIndex
from blockstore.plane.tables.similarity_index import SimilarityIndex
from blockstore.plane.tables.tables import Tables
from blockstore.plane.tables.volumes import VolumeTable
from blockstore.store.changes import Changes, check_size
from blockstore.store.decode import Decoder
from blockstore.store.dictionaries import Dictionaries
from blockstore.store.domains import Domains
from blockstore.store.ingest import SLICE_BLOCKS, Extent, Ingest
from blockstore.store.moves.densify import Densify
from blockstore.store.moves.mover import Mover
from blockstore.store.moves.paging import Paging
from blockstore.store.moves.recompression import Recompression
from blockstore.store.moves.training import Training
from blockstore.store.moves.upkeep import Upkeep
from blockstore.store.recovery import Recovery
from blockstore.store.remote.fetch import Fetched, Wants
from blockstore.store.remote.remote import Remote
from blockstore.store.remote.wants import keep, keep_again, missing
from blockstore.store.state import superblock
from blockstore.store.state.geometry import BLOCK_SHIFT, FIRST_ROW, ID_MASK
from blockstore.store.state.home import Home
from blockstore.store.state.mapping import MAXIMUM_INDEX_SLOTS
from blockstore.store.state.pool import COMPACTION_RESERVE_SEGMENTS, Pool, PoolFigures
from blockstore.store.state.rows import MAXIMUM_DEPENDENTS, Rows
from blockstore.store.state.shared_array import SharedArray
from blockstore.store.steps import Blocks, Outcome, Steps, Yielded
from blockstore.store.tiers import Tier
from blockstore.store.volume import MAXIMUM_SIZE_BYTES, Volume, file_name

__all__ = ["SLICE_BLOCKS", "Extent", "Store", "check_size"]


class Store:
    """All volumes, and the tables and the pool that they share."""

    def __init__(
        self,
        home: Home,
        pool_limit_bytes: int,
        *,
        patching: bool = True,
        mend: bool = False,
        give_up: bool = False,
        look: bool = False,
    ) -> None:
        """Open the state in `home`, or start an empty one. Raises StateError, OutOfRoom, InputError.

        A state whose tables are damaged is refused, unchanged. With `mend` what one changed bit has done to a map or
        a row is undone, and blocks that cannot be found any more are LOST; `lost_blocks` says how many there are. With
        `give_up` those are, too, whose dictionary is damaged; else they cannot be read until it is put back. With
        `look` the tables are left as they are, for `verify` only.
        """
        self.lock = StoreLock()
        self._home = home
        existed = superblock.check_or_create(home)
        self.id = superblock.read_id(home)
        self.tables = Tables()
        with ExitStack() as files:  # those of a state that is refused are not left open
            self.pool = files.enter_context(closing(Pool(home, pool_limit_bytes, self.tables)))
            self.rows = files.enter_context(closing(Rows(home, self.tables)))
            slots = SharedArray(home, "content-index", "I", FIRST_SLOTS, most=MAXIMUM_INDEX_SLOTS)
            self.content = files.enter_context(closing(ContentIndex(slots, self.tables)))
            hints = SharedArray(home, "similarity-rows", "I", similarity_index.FIRST_SLOTS, most=MAXIMUM_INDEX_SLOTS)
            tags = SharedArray(home, "similarity-tags", "B", hints.capacity, most=MAXIMUM_INDEX_SLOTS)
            similarity = SimilarityIndex(hints, tags, self.tables, MAXIMUM_DEPENDENTS)
            self.similarity = files.enter_context(closing(similarity))
            self.domains = files.enter_context(closing(Domains(home)))
            dictionaries = Dictionaries(home, self.tables, self.rows, self.pool, self.domains)
            self.dictionaries = files.enter_context(closing(dictionaries))
            self.volumes: dict[int, Volume] = {}
            self._lane_volumes = VolumeTable()
            self.pool.settle_lanes = self._lane_volumes.settle
            files.callback(self._close_volumes)
            self.decoder = Decoder(self.rows, self.pool, self.tables)
            self._commit = Commit(self.tables, self.rows.free, self.rows.changed_rows, self.pool.log)
            self._ingest = Ingest(
                self.rows, self.pool, self.content, self.similarity, self.tables, self._commit, patching=patching
            )
            self.upkeep = Upkeep(self.rows, self.pool, self.tables)
            self.densify = Densify(
                self.pool, self.domains, self.dictionaries, self.similarity, self.tables, self._commit
            )
            self.paging = Paging(self.rows, self.pool, self.tables)
            training = Training(self.tables, self.rows, self.pool, self.domains, self.dictionaries)
            self.training = files.enter_context(closing(training))
            self.recompression = Recompression(self.densify, self.upkeep, self.dictionaries, self.training)
            self.remote = Remote(self.volumes, self.tables, self.rows, self.pool, self.decoder, self._ingest)
            self.read_blocks, self.read_range = self.decoder.read_blocks, self.decoder.read_range
            """See there. For those that answer a READ: a fault takes one call then."""
            self.lost_blocks = 0
            self.is_adopted = not look
            """Are counts and the pool's books those of the tables? Not with `look`, which takes them as they are."""
            recovery = Recovery(
                home,
                self.volumes,
                self.tables,
                self.rows,
                self.pool,
                self.content,
                self.domains,
                self.decoder,
                self._ingest,
            )
            self._changes = Changes(
                self.rows,
                self.pool,
                self.decoder,
                self._ingest,
                self._commit,
                self.upkeep,
                recovery,
                self._lane_volumes,
            )
            if existed:
                recovery.find_volumes()
                self.dictionaries.open(give_up=give_up, look=look)
                if not look:
                    if not mend:
                        self.dictionaries.refuse_missing()
                    self.lost_blocks, self.remote.made_due = recovery.adopt(mend=mend)
                for number, volume in self.volumes.items():
                    self._lane_volumes.enter(number, volume.block_map)
            self._files = ExitStack()
            self._files.callback(home.close)
            self._files.enter_context(files.pop_all())

    def create_volume(self, number: int, domain_key: int) -> Volume:
        """An empty volume. `number` names it in the state; `domain_key` (not 0) says with whom it shares."""
        assert number not in self.volumes and domain_key
        domain = self.domains.enter(domain_key)
        try:
            volume = Volume(self._home, number, domain, create=True)
        except BaseException:
            self._home.remove(file_name(number))
            self.domains.leave(domain)
            raise
        self.volumes[number] = volume
        self._lane_volumes.enter(number, volume.block_map)
        return volume

    def delete_steps(self, volume: Volume) -> Steps:
        """Free all blocks of the volume and forget it. From the first step on it may not be used otherwise."""
        return self.locked(self._delete(volume))

    def _delete(self, volume: Volume) -> Steps:
        volume.block_map.is_deleted = True
        yield from self._changes.discard_blocks(volume, 0, volume.blocks)
        del self.volumes[volume.number]
        self._lane_volumes.remove(volume.number)
        volume.close()
        self._home.remove(file_name(volume.number))
        if volume.domain.volumes == 1:
            self.dictionaries.forget(volume.domain.index)
        self.domains.leave(volume.domain)

    def read(self, volume: Volume, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end. Raises CorruptBlock, NotHere."""
        return bytes(self.decoder.read_range(volume, offset, length)[0])

    def missing(self, blocks: Blocks) -> Wants:
        """What is not here, and without which these blocks cannot be read; nothing for a volume that is deleted."""
        if blocks.volume.deleted:
            return []
        return missing(self.rows, self.decoder.cache, self.pool.arrivals, blocks)

    def keep(self, fetched: Fetched) -> None:
        """Have what was fetched at hand for a while, as far as it is still what was asked for. What the tier or a
        source has lost is damaged from now on, for all who ask."""
        keep(self.decoder, self.pool, fetched)

    def keep_again(self, fetched: Fetched) -> None:
        """Have at hand what was kept before, and may have been pushed out of the caches by others since."""
        keep_again(self.decoder, self.pool, fetched)

    def forget_fetched(self) -> None:
        """Have nothing of the tier at hand: it may have been damaged on its way."""
        self.decoder.cache.clear()

    def saw_fault(self, volume: Volume, block: int) -> None:
        """A guest has read this block: what lies around it is not the coldest of the pool."""
        row = volume.lookup(block) & ID_MASK
        if FIRST_ROW <= row < self.rows.capacity:
            self.paging.saw(self.rows.where.items[row])

    def write_steps(
        self,
        volume: Volume,
        offset: int,
        data: memoryview | bytes,
        reserved_segments: int = COMPACTION_RESERVE_SEGMENTS,
    ) -> Steps:
        """Write at any offset; the volume grows as needed. `data` must stay as it is until the last step."""
        if volume.has_paged_tail:
            yield from self.locked(self._changes.cut_paged_tail(volume))
        yield from self._changes.write(volume, offset, data, reserved_segments, self.lock)

    def discard_steps(self, volume: Volume, offset: int, length: int) -> Steps:
        """Make the range read as zeros and free its whole blocks. The size stays."""
        return self.locked(self._changes.discard(volume, offset, length))

    def resize_steps(self, volume: Volume, size_bytes: int) -> Steps:
        """Truncate down, freeing what is cut off, or up, adding a hole."""
        return self.locked(self._changes.resize(volume, size_bytes))

    def clone_steps(
        self, source: Volume, source_offset: int, target: Volume, target_offset: int, length: int
    ) -> Generator[Yielded, None, int]:
        """Copy a range between volumes of one domain (to itself if it does not overlap): block ids, no data.

        Parts that are not whole blocks on both sides are copied as bytes. Returns how many bytes were copied: fewer
        than `length` where the source ends before, or is cut off meanwhile.
        """
        return self.locked(self._changes.clone(source, source_offset, target, target_offset, length))

    @property
    def table_bytes(self) -> int:
        """Memory of all tables: rows, both indexes, domains, dictionaries, volume maps."""
        return (
            self.rows.size_bytes
            + self.content.size_bytes
            + self.similarity.size_bytes
            + self.domains.size_bytes
            + self.dictionaries.size_bytes
            + self.pool.pieces.size_bytes
            + self.pool.arrivals.size_bytes
            + sum(volume.table_bytes for volume in self.volumes.values())
        )

    def compact(self, *, quiet: bool = False) -> bool:
        """Take a step of compaction, if there is enough garbage; False when there is not. `quiet`: nobody writes, and
        less is enough."""
        self.pool.take_back()
        return self.upkeep.due(quiet=quiet) and self.upkeep.step(quiet=quiet)

    def make_room(self) -> Outcome:
        """Takes a step of compaction, however little garbage there is. Returns WENT_ON when it did some, and NO_ROOM
        when there is nothing to compact."""
        return self._changes.make_room()

    def mover(self, tier: Tier, store_lock: AbstractContextManager[object]) -> Mover:
        """What moves records between the pool and the tier. One for a store."""
        return Mover(self.paging, self.pool, tier, store_lock)

    def lane(
        self,
        fd: int,
        pipe: tuple[int, int],
        pipe_bytes: int,
        request_bytes: int,
        requests: Requests,
        encoders: Encoders | None = None,
    ) -> Lane:
        """What answers READs of all volumes, and small writes (plane/serve/lane.pyi says what the arguments are). It
        must not serve any more when the store is closed."""
        batch = self._ingest.new_batch(1) if encoders is not None else None
        return Lane(fd, pipe, pipe_bytes, request_bytes, self.tables, self._lane_volumes, requests, encoders, batch)

    def encoders(self, fd: int, requests: Requests, bounds_us: Sequence[int]) -> Encoders:
        """What answers WRITEs (plane/serve/encoders.pyi says what the arguments are). They must not serve any more when
        the store is closed."""
        return Encoders(
            fd, self._lane_volumes, requests, self._commit, self.lock, COMPACTION_RESERVE_SEGMENTS, bounds_us
        )

    def new_batch(self) -> Batch:
        """A batch for a thread of its own, of BATCH_BLOCKS (ingest.py)."""
        return self._ingest.new_batch()

    def commit_slice(self, number: int, offset: int, data: memoryview, batch: Batch) -> bool:
        """Writes whole blocks to the volume with this number, if there is one and that can be done at once: `batch` has
        them encoded. Makes the room that its commit lacked. Takes the lock itself."""
        end_bytes = offset + len(data)
        with self.lock:
            volume = self.volumes.get(number)
            if volume is None or volume.has_paged_tail or end_bytes > MAXIMUM_SIZE_BYTES:
                return False
            if volume.domain.index != batch.domain:  # another file has got the number
                return True
            extent = Extent(volume, offset >> BLOCK_SHIFT, data)
            try:
                self._ingest.commit_write(batch, extent, end_bytes, COMPACTION_RESERVE_SEGMENTS)
            except OutOfRoom:
                return False
            volume.touch()
        return True

    @property
    def tier_pieces(self) -> int:
        """Pieces of the tier that are needed."""
        return self.pool.pieces.count

    @property
    def live_contents(self) -> int:
        """Contents that are stored: rows in use."""
        return self.rows.live

    @property
    def record_bytes(self) -> int:
        """Bytes of live records in the pool."""
        return self.pool.live_bytes

    @property
    def filled_segments(self) -> int:
        """Segments that were filled since the store was opened."""
        return self.pool.now

    def pool_figures(self) -> PoolFigures:
        """How full the pool is."""
        return self.pool.figures()

    def set_pool_limit(self, limit_bytes: int) -> None:
        """Change the limit. Raises InputError for one below what is stored, or out of range."""
        self.pool.set_limit(limit_bytes)

    def forget_similar(self) -> None:
        """Finds no reference for a block from now on but the one that was noted when it was written; for comparing."""
        self.similarity.close()

    def close(self) -> None:
        """Let go of all files; idempotent. Nothing needs to be written: the state is its files. Without the lock, for a
        dictionary that is being made may wait for it."""
        self._files.close()

    def locked(self, steps: Steps) -> Generator[Yielded, None, Any]:
        """These steps, each with the lock: for those that do not take it themselves (census.py, verify.py)."""
        while True:
            with self.lock:
                try:
                    outcome = next(steps)
                except StopIteration as end:
                    return end.value
            yield outcome

    def lend_room_of(self, volumes: Sequence[Volume]) -> None:
        """Let the pool go above its limit by what these volumes seem to take of it, because they will soon be gone."""
        touched = sum(volume.touched_blocks for volume in self.volumes.values()) if volumes else 0
        share = sum(volume.touched_blocks for volume in volumes) / touched if touched else 0.0
        self.pool.lend(int(self.pool.allocated_bytes * share))

    def _close_volumes(self) -> None:
        for number, volume in self.volumes.items():
            self._lane_volumes.remove(number)
            volume.close()
