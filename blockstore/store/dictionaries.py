"""The dictionaries of a store: for cold blocks without a reference, two a domain at most, in slots.

A row's encoding says which slot its record needs, and its domain whose. Blocks are encoded with the younger one, its
*current* one. A slot gets another dictionary only when no row of the domain needs what is in it (`spare_slot`): none
can come to need it, for it is not current. What compiled threads may be looking at lives on until they have moved on.

In this order a dictionary is published: its file is complete, the superblock says that there is one, decoders have it,
encoders have it. So a killed process leaves rows with the dictionaries that they need, and at most one too many.
"""

from __future__ import annotations

import logging
import os
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from blockstore.errors import StateError
from blockstore.plane.codec.dictionary import Dictionary, DictionaryEncoder
from blockstore.plane.tables.census import count_encodings
from blockstore.plane.tables.tables import Tables
from blockstore.store.domains import Domains
from blockstore.store.state import superblock
from blockstore.store.state.dictionary_file import (
    FILE_BYTES,
    DictionaryFile,
    file_name,
    mend,
    place_of,
    read,
    write,
)
from blockstore.store.state.geometry import DENSE_FIRST, DICTIONARY_VERSION, ENCODING_MASK, SLOTS
from blockstore.store.state.home import Home
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows
from blockstore.store.state.spread import share
from blockstore.store.volume import Domain

log = logging.getLogger(__name__)

ENCODINGS: Final = ENCODING_MASK + 1

MAXIMUM_ENCODERS: Final = 8
"""Tables for encoders that are kept while a pass is under way: of 0.8 MB each, and 2 ms to make. Blocks of more domains
are encoded without a dictionary in that pass."""

Place = tuple[int, int]
"""The index of a domain, and a slot."""


class Prepared(NamedTuple):
    """A new dictionary whose file is complete, and which nobody knows yet."""

    domain: Domain
    slot: int
    fd: int
    file: DictionaryFile
    dictionary: Dictionary


class Dictionaries:
    """Of one store. With the store lock, but for `encoder`, `current`, `count_rows`, `spare_slot` and `prepare`."""

    def __init__(self, home: Home, tables: Tables, rows: Rows, pool: Pool, domains: Domains) -> None:
        self._home = home
        self._tables = tables
        self._rows = rows
        self._pool = pool
        self._domains = domains
        self._fds: dict[Place, int] = {}
        self._known: dict[Place, DictionaryFile] = {}
        self._current: dict[int, int] = {}
        self._encoders: dict[tuple[int, int, bool], DictionaryEncoder] = {}
        self._retired: deque[tuple[Dictionary, int]] = deque()

    @property
    def size_bytes(self) -> int:
        """Of the files, which lie in the state."""
        return len(self._fds) * FILE_BYTES

    def current(self, domain: int) -> DictionaryFile | None:
        """Returns what the file says, but for the content, of that with which blocks of a domain (its index) are
        encoded now."""
        slot = self._current.get(domain)
        return None if slot is None else self._known.get((domain, slot))

    def open(self, *, give_up: bool, look: bool) -> None:
        """At start, when all domains are known: takes up what is there. With `give_up` one that is damaged beyond
        repair goes: blocks that need it are not found any more then. With `look` all is left as it is."""
        places = dict.fromkeys(place for name in self._home.names() if (place := place_of(name)) is not None)
        if not places and superblock.read_version(self._home) < DICTIONARY_VERSION:
            return
        rows = self.count_rows()
        for place in places:
            self._open(*place, rows=rows, give_up=give_up, look=look)
        for domain in {domain for domain, _ in self._known}:
            self._choose(domain)
        if self._known and not look:
            superblock.raise_version(self._home)

    def missing(self) -> Iterator[tuple[str, int]]:
        """For each file that is not there: its name, and how many rows need it."""
        if superblock.read_version(self._home) < DICTIONARY_VERSION:
            return
        rows = self.count_rows()
        for domain in range(len(rows) // ENCODINGS):
            for slot in range(SLOTS):
                count = rows[ENCODINGS * domain + DENSE_FIRST + slot]
                if count and (domain, slot) not in self._fds:
                    yield file_name(domain, slot), count

    def refuse_missing(self) -> None:
        """Raises StateError when rows need a dictionary that is not there."""
        if superblock.read_version(self._home) < DICTIONARY_VERSION:
            return
        for name, count in self.missing():
            place = self._home.describe()
            raise StateError(
                f"the state in {place} is damaged: {name} is missing, and {count} blocks cannot be read without it; "
                f"put it back, or run `blockstore verify --state {place} --repair`, which makes the rest usable"
            )

    def problems(self, *, repair: bool) -> Iterator[tuple[str, bool]]:
        """What is wrong with the files, for `verify`: a sentence for each, and whether it is repaired by now."""
        for (domain, slot), fd in list(self._fds.items()):
            name, seed = file_name(domain, slot), self._seed(domain)
            file, damaged = read(fd, domain, slot, seed)
            dictionary = self._tables.dictionary(domain, slot)
            if file is None and dictionary is not None and repair:
                file = self._known[domain, slot]._replace(content=dictionary.content())
            if file is None:
                yield f"both copies of {name} are damaged: blocks that were encoded with it cannot be read", False
            elif damaged:
                if repair:
                    mend(fd, domain, slot, seed, file, damaged)
                yield f"{len(damaged)} of the two copies of {name} are damaged", repair
        for name, count in self.missing():
            yield f"{name} is missing, and {count} blocks cannot be read without it", False

    def count_rows(self) -> array[int]:
        """Returns how many rows there are, by ENCODINGS times their domain's index and their encoding."""
        size = ENCODINGS * self._domains.capacity

        def count(first: int, end: int) -> array[int]:
            rows = array("q", bytes(8 * size))
            count_encodings(self._tables, first, end, rows)
            return rows

        parts = share(count, self._rows.capacity)  # at start nobody knows yet how far they are used
        return array("q", map(sum, zip(*parts, strict=True))) if parts else array("q", bytes(8 * size))

    def spare_slot(self, domain: int, rows: array[int]) -> int | None:
        """Returns a slot that can be given another dictionary, by rows that were counted after the last one was
        published; None if all are needed."""
        for slot in range(SLOTS):
            if slot != self._current.get(domain) and not rows[ENCODINGS * domain + DENSE_FIRST + slot]:
                return slot
        return None

    def prepare(self, domain: Domain, slot: int, content: bytes, trained_blocks: int) -> Prepared:
        """Writes the file of a new dictionary for a spare slot, which nobody else fills meanwhile. Needs no lock.
        Raises OutOfRoom, OSError, MemoryError, and ValueError for what is none."""
        dictionary = Dictionary(content)
        known = [file.generation for (index, _), file in list(self._known.items()) if index == domain.index]
        file = DictionaryFile(1 + max(known, default=0), trained_blocks, content)
        fd = write(self._home, domain.index, slot, domain.seed, file)
        return Prepared(domain, slot, fd, file, dictionary)

    def publish(self, prepared: Prepared) -> bool:
        """Lets blocks of the domain be encoded with what was prepared. Returns False for a domain that is gone by
        now. Raises OSError, and then it is given up."""
        domain, place = prepared.domain, (prepared.domain.index, prepared.slot)
        is_there = self._domains.at(domain.index) is domain
        try:
            if is_there:
                superblock.raise_version(self._home)
        except OSError:
            is_there = False
            raise
        finally:
            if not is_there:
                os.close(prepared.fd)
                self._home.remove(file_name(*place))
        if not is_there:
            return False
        self._withdraw(place)
        self._fds[place], self._known[place] = prepared.fd, prepared.file._replace(content=b"")
        self._tables.bind_dictionary(*place, prepared.dictionary)
        self._choose(domain.index)
        return True

    def forget(self, domain: int) -> None:
        """No row of the domain is left, and it goes: its dictionaries go with it."""
        for slot in range(SLOTS):
            if (domain, slot) in self._fds:
                self._withdraw((domain, slot))
                self._home.remove(file_name(domain, slot))
        self._current.pop(domain, None)
        for key in [key for key in self._encoders if key[0] == domain]:
            self._encoders.pop(key, None)

    def encoder(self, domain: int, *, hard: bool) -> DictionaryEncoder | None:
        """Returns what blocks of a domain are encoded with now, if it has a dictionary, and there is memory for its
        tables. For any thread."""
        slot = self._current.get(domain)
        dictionary = None if slot is None else self._tables.dictionary(domain, slot)
        if slot is None or dictionary is None:
            return None
        found = self._encoders.get((domain, slot, hard))
        if found is None or found.dictionary is not dictionary:
            if len(self._encoders) >= MAXIMUM_ENCODERS:
                return None
            try:
                found = dictionary.encoder(slot, hard=hard)
            except MemoryError:
                return None
            self._encoders[domain, slot, hard] = found
        return found

    def rest(self) -> None:
        """Nothing is to be encoded for a while: gives tables back to the host."""
        self._encoders.clear()
        self._reclaim()

    def close(self) -> None:
        """Lets go of all files."""
        self._encoders.clear()
        self._retired.clear()
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def _open(self, domain: int, slot: int, *, rows: array[int], give_up: bool, look: bool) -> None:
        name, place, found = file_name(domain, slot), self._home.describe(), self._domains.at(domain)
        if found is None or not found.volumes:
            if not look:
                self._home.remove(name)
            return
        fd = self._home.open(name)
        file, damaged = read(fd, domain, slot, found.seed)
        dictionary = None
        if file is not None:
            with suppress(ValueError):
                dictionary = Dictionary(file.content)
        if file is None or dictionary is None:
            needing = rows[ENCODINGS * domain + DENSE_FIRST + slot]
            if not needing or give_up:
                os.close(fd)
                if not look:
                    self._home.remove(name)
                return
            log.error("both copies of %s in %s are damaged: %d blocks cannot be read", name, place, needing)
            self._fds[domain, slot] = fd
            self._tables.bind_dictionary(domain, slot, None)
            return
        if damaged and not look:
            with suppress(OSError):
                mend(fd, domain, slot, found.seed, file, damaged)
                log.warning("a copy of %s in %s was damaged, and was made anew from the other one", name, place)
        self._fds[domain, slot], self._known[domain, slot] = fd, file._replace(content=b"")
        self._tables.bind_dictionary(domain, slot, dictionary)

    def _choose(self, domain: int) -> None:
        """Lets blocks be encoded with the youngest."""
        slots = [slot for slot in range(SLOTS) if (domain, slot) in self._known]
        slot = max(slots, key=lambda slot: self._known[domain, slot].generation)
        self._tables.let_encode(domain, slot)
        self._current[domain] = slot

    def _withdraw(self, place: Place) -> None:
        """Makes a dictionary impossible to find, if there is one."""
        dictionary = self._tables.dictionary(*place)
        self._tables.bind_dictionary(*place, None, is_known=False)
        self._known.pop(place, None)
        if place in self._fds:
            os.close(self._fds.pop(place))
        if dictionary is not None:
            self._retired.append((dictionary, self._pool.epochs.retire()))
            self._reclaim()

    def _reclaim(self) -> None:
        """Ends dictionaries that nobody can be looking at any more."""
        if self._retired and self._pool.epochs.is_over(self._retired[0][1]):
            self._pool.settle_lanes()
        while self._retired and self._pool.epochs.is_over(self._retired[0][1]):
            self._retired.popleft()

    def _seed(self, domain: int) -> int:
        found = self._domains.at(domain)
        assert found is not None
        return found.seed
