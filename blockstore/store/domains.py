"""The domains of a store: which volumes may share blocks, and the secret key of each.

An array of (key, seed, check) triples; a triple's position is the index that block rows carry. The key is the
caller's name for the domain (the inode of a top-level directory); 0 marks an unused triple, and is stored last.
"""

from __future__ import annotations

import secrets
from typing import Final

from blockstore.errors import OutOfRoom, StateError
from blockstore.plane.codec.codec import digest
from blockstore.store.state.home import Home
from blockstore.store.state.shared_array import SharedArray
from blockstore.store.volume import Domain

MAXIMUM_DOMAINS: Final = 1 << 16
"""The index has 16 bits in a row."""

_FIRST_CAPACITY: Final = 256
_WORDS: Final = 3


class Domains:
    """Domains that have volumes; one without is forgotten."""

    def __init__(self, home: Home) -> None:
        self._triples = SharedArray(home, "domains", "Q", _WORDS * _FIRST_CAPACITY, most=_WORDS * MAXIMUM_DOMAINS)
        self._by_key: dict[int, Domain] = {}
        for index in range(self._triples.capacity // _WORDS):
            key, seed, check = self._triples.items[_WORDS * index : _WORDS * (index + 1)]
            if not key:
                continue
            if check != _check(key, seed):
                raise StateError(
                    f"the state in {home.describe()} is damaged: the seed of a domain in `domains` is not what it was; "
                    "restore the directory, or mount with an empty one"
                )
            self._by_key[key] = Domain(index, key, seed)

    @property
    def capacity(self) -> int:
        """No domain has a higher index, or this one."""
        return self._triples.capacity // _WORDS

    @property
    def size_bytes(self) -> int:
        return self._triples.size_bytes

    def seeds(self) -> dict[int, int]:
        """The seed of each domain that has volumes, or had some when the state was opened, by its index."""
        return {domain.index: domain.seed for domain in self._by_key.values()}

    def at(self, index: int) -> Domain | None:
        """The domain with this index, which a damaged row may have taken from nowhere; any thread may ask."""
        if _WORDS * index >= self._triples.capacity:
            return None
        return self._by_key.get(self._triples.items[_WORDS * index])

    def knows(self, key: int) -> bool:
        """Is there a domain with this key?"""
        return key in self._by_key

    def enter(self, key: int) -> Domain:
        """The domain with this key, made if need be, for one more volume. Raises OutOfRoom beyond MAXIMUM_DOMAINS."""
        domain = self._by_key.get(key)
        if domain is None:
            index = self._unused()
            domain = Domain(index, key, secrets.randbits(64))
            self._triples.items[_WORDS * index + 1] = domain.seed
            self._triples.items[_WORDS * index + 2] = _check(key, domain.seed)
            self._triples.items[_WORDS * index] = key
            self._by_key[key] = domain
        domain.volumes += 1
        return domain

    def leave(self, domain: Domain) -> None:
        """A volume of the domain is gone. The last one takes the domain along."""
        domain.volumes -= 1
        if not domain.volumes:
            self._triples.items[_WORDS * domain.index] = 0
            del self._by_key[domain.key]

    def forget_empty(self) -> None:
        """At start, after all volumes were entered: drop domains that a killed process left without a volume."""
        for domain in [domain for domain in self._by_key.values() if not domain.volumes]:
            domain.volumes = 1
            self.leave(domain)

    def close(self) -> None:
        self._triples.close()

    def _unused(self) -> int:
        used = {domain.index for domain in self._by_key.values()}
        index = next(index for index in range(len(used) + 1) if index not in used)
        if index >= MAXIMUM_DOMAINS:
            raise OutOfRoom(f"there are {MAXIMUM_DOMAINS} sharing domains already; remove a top-level directory")
        if _WORDS * (index + 1) > self._triples.capacity:
            self._triples.grow(2 * self._triples.capacity)
        return index


def _check(key: int, seed: int) -> int:
    return digest(key.to_bytes(8, "little"), seed)
