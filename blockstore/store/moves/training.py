"""When a domain gets a dictionary for its cold blocks without a reference, and when another one.

At the beginning of a pass of recompression all rows are counted, some at each step. A domain with enough blocks that a
dictionary is for gets one, in a thread of its own: blocks are sampled from all of the domain, the dictionary is
trained, tried on others of its blocks, and published. No lock is held meanwhile but to publish. The thread has the
priority of all others: it takes a fifth of a second each time that a domain has grown by a factor, and where cores are
busy, at a lower priority, it would stand still with the interpreter's lock or the heap's.

What was encoded without it, or with an older one, gets it at its second look (densify.py).
"""

from __future__ import annotations

import logging
import threading
import time
from array import array
from typing import Final

from blockstore.errors import OutOfRoom
from blockstore.plane.codec.codec import Codec
from blockstore.plane.codec.dictionary import DICTIONARY_BYTES, Dictionary, train
from blockstore.plane.moves.sampling import Sampler
from blockstore.plane.sync.lock import StoreLock
from blockstore.plane.tables.census import count_encodings
from blockstore.plane.tables.tables import Tables
from blockstore.store.dictionaries import ENCODINGS, Dictionaries
from blockstore.store.domains import Domains
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_FIRST,
    DENSE_SECOND,
)
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows
from blockstore.store.state.untouched import untouched
from blockstore.store.volume import Domain

log = logging.getLogger(__name__)

TRAIN_FROM_BLOCKS: Final = 16384
"""Of a domain, in records of their own. A dictionary takes 230 KB, twice in its file and once for decoders, and saves
45 bytes a block of guests: three times what it costs with so many."""

SAMPLE_BLOCKS: Final = 2048
"""8 MiB. Four times as many make records of guests 0.2 % smaller, and take four times as long: 0.15 s for these."""

CHECK_BLOCKS: Final = 64
"""Others, on which it is tried: some 10 ms."""

WORTH_SHARE: Final = 0.015
"""Of the bytes of their records it must save: half of what it saves of guests' blocks."""

RETRAIN_GROWTH: Final = 4.0
"""Times as many blocks as there were then: the dictionary is made from what is another domain by now."""

RETRY_GROWTH: Final = 2.0
"""The same after one was trained that was not worth it, or for which there was no room."""

LOOK_AGAIN_SHARE: Final = 0.25
"""Of all rows, which the blocks of a domain must be if its dictionary is to have all segments looked at a second time
again. That encodes what others have in them, too: many small domains, one after the other, would never let it end."""

MINIMUM_BYTES: Final = 256
"""Smaller records, which are not encoded anew either, teach nothing."""

ROWS_A_STEP: Final = 1 << 16
"""Rows counted in one step, about 0.1 ms."""

PATIENCE_S: Final = 10.0
"""Recompression waits so long for a dictionary that is being made, so that blocks are not encoded twice."""

_ALONE: Final = (COMPRESSED, DENSE, DENSE_FIRST, DENSE_SECOND)
"""Encodings of blocks that a dictionary is for."""


class Training:
    """Of one store. `begin` and `step` are for whoever drives recompression, several threads at a time."""

    def __init__(self, tables: Tables, rows: Rows, pool: Pool, domains: Domains, dictionaries: Dictionaries) -> None:
        self._tables = tables
        self._rows = rows
        self._pool = pool
        self._domains = domains
        self._dictionaries = dictionaries
        self._turn = threading.Lock()
        self._counts: array[int] | None = None
        self._counted = 0
        self._thread: threading.Thread | None = None
        self._is_to_end = False
        self._since_s = 0.0
        self._tried: dict[int, int] = {}
        """By the key of a domain for which none could be made, its blocks then."""
        self.trained = 0
        """Dictionaries that were published since the store was opened."""
        self.saved_share = 0.0
        """What the last one that was tried saved of the records of the blocks on which it was tried."""

    def is_under_way(self, now_s: float) -> bool:
        """Is one being made, for no more than PATIENCE_S?"""
        return self._thread is not None and self._thread.is_alive() and now_s - self._since_s < PATIENCE_S

    def begin(self) -> None:
        """A pass begins: has rows counted anew."""
        if self._thread is None or not self._thread.is_alive():
            self._counts, self._counted = None, 0
            self._counts = array("q", bytes(8 * ENCODINGS * self._domains.capacity))

    def step(self, store_lock: StoreLock, *, wait: bool) -> bool:
        """Counts some rows. Returns False when all are counted; a dictionary is being made by then if there is one to
        be made, and with `wait` it is there."""
        if self._counts is None or not self._turn.acquire(blocking=False):
            return False
        try:
            counts, end = self._counts, self._rows.next_row
            if counts is None:
                return False
            following = min(self._counted + ROWS_A_STEP, end)
            count_encodings(self._tables, self._counted, following, counts)
            self._counted = following
            if following < end:
                return True
            self._counts = None
            self._start(counts, store_lock, wait=wait)
            return False
        finally:
            self._turn.release()

    def close(self) -> None:
        """Ends what is under way, and waits for it: at most for the training of one dictionary. Without the store
        lock."""
        self._is_to_end = True
        if self._thread is not None:
            self._thread.join()

    def _start(self, counts: array[int], store_lock: StoreLock, *, wait: bool) -> None:
        due = self._due(counts)
        if due is None or self._is_to_end:
            return
        if wait:
            self._make(*due, store_lock)
            return
        thread = threading.Thread(target=self._make, args=(*due, store_lock), name="training", daemon=True)
        self._since_s = time.monotonic()
        try:
            thread.start()
        except RuntimeError as error:  # no more threads are to be had
            log.info("no dictionary was made for the blocks of domain %d: %s", due[0].index, error)
            return
        self._thread = thread

    def _due(self, counts: array[int]) -> tuple[Domain, int, int] | None:
        """Returns a domain that should have a new dictionary, the slot for it, and its blocks."""
        for index in range(len(counts) // ENCODINGS):
            blocks = sum(counts[ENCODINGS * index + encoding] for encoding in _ALONE)
            domain = self._domains.at(index) if blocks >= TRAIN_FROM_BLOCKS else None
            if domain is None or blocks < RETRY_GROWTH * self._tried.get(domain.key, 0):
                continue
            current = self._dictionaries.current(index)
            if current is not None and blocks < RETRAIN_GROWTH * current.trained_blocks:
                continue
            slot = self._dictionaries.spare_slot(index, counts)
            if slot is not None:
                return domain, slot, blocks
        return None

    def _make(self, domain: Domain, slot: int, blocks: int, store_lock: StoreLock) -> None:
        self._tried = {key: count for key, count in self._tried.items() if self._domains.knows(key)}
        self._tried[domain.key] = blocks
        try:
            content = self._trained(domain, blocks)
            if content is not None and not self._is_to_end:
                prepared = self._dictionaries.prepare(domain, slot, content, blocks)
                with store_lock:
                    is_published = self._dictionaries.publish(prepared)
                    if is_published:
                        if blocks >= LOOK_AGAIN_SHARE * self._rows.live:
                            self._look_again()
                        del self._tried[domain.key]
                        self.trained += 1
        except (OutOfRoom, OSError, MemoryError, ValueError) as error:
            log.info("no dictionary was made for the blocks of domain %d: %s", domain.index, error)

    def _trained(self, domain: Domain, blocks: int) -> bytes | None:
        """Returns a dictionary that is worth it, if there is one."""
        sampler = Sampler(self._tables, self._pool.epochs, minimum_bytes=MINIMUM_BYTES)
        every = max(blocks // (SAMPLE_BLOCKS + CHECK_BLOCKS), 1)
        memory = untouched(SAMPLE_BLOCKS * BLOCK_BYTES)
        with memoryview(memory) as samples:
            count = sampler.sample(domain.index, domain.seed, every, 0, samples)
            content = None
            if count and not self._is_to_end:
                content = train(samples[: count * BLOCK_BYTES], DICTIONARY_BYTES)
        memory.close()
        if content is None or self._is_to_end:
            return None
        checked = bytearray(CHECK_BLOCKS * BLOCK_BYTES)
        others = SAMPLE_BLOCKS // CHECK_BLOCKS * every
        count = sampler.sample(domain.index, domain.seed, others, every // 2, checked)  # between those of the sample
        self.saved_share = _saved_share(content, checked, count)
        return content if self.saved_share > WORTH_SHARE else None

    def _look_again(self) -> None:
        """Has all segments looked at a second time, with the new dictionary."""
        second_look = self._pool.segments.second_look
        second_look[:] = array("q", [-1]) * len(second_look)


def _saved_share(content: bytes, blocks: bytearray, count: int) -> float:
    """Returns how much less the records of these blocks take with the dictionary, as a share."""
    codec, encoder = Codec(), Dictionary(content).encoder(0, hard=False)
    before = after = 0
    for number in range(count):
        block = bytes(blocks[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])
        before += min(len(codec.encode_cold(block)), BLOCK_BYTES)
        after += min(len(codec.encode_cold(block, encoder=encoder)), BLOCK_BYTES)
    return 1 - after / before if before else 0.0
