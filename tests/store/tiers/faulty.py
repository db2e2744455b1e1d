"""A tier that fails when it is told to: another one, some calls of which come to nothing, or are done, not answered."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from blockstore.store.codec import Buffer
from blockstore.store.tiers import Tier, TierAway

Result = TypeVar("Result")


class FaultyTier:
    """`chance` of a call failing, from 0 to 1; half of those that fail are done all the same."""

    def __init__(self, inner: Tier, seed: int = 0) -> None:
        self.inner = inner
        self.chance = 0.0
        self.calls: list[str] = []
        self._random = random.Random(seed)

    def check(self) -> None:
        self._maybe("check", self.inner.check)

    def put(self, piece: int, data: Buffer) -> None:
        self._maybe("put", lambda: self.inner.put(piece, data))

    def read(self, piece: int, offset: int, length: int) -> bytes:
        return self._maybe("read", lambda: self.inner.read(piece, offset, length))

    def delete(self, piece: int) -> None:
        self._maybe("delete", lambda: self.inner.delete(piece))

    def pieces(self) -> list[int]:
        return self._maybe("pieces", self.inner.pieces)

    def remove(self) -> None:
        self._maybe("remove", self.inner.remove)

    def describe(self) -> str:
        return self.inner.describe()

    def close(self) -> None:
        self.inner.close()

    def _maybe(self, name: str, call: Callable[[], Result]) -> Result:
        self.calls.append(name)
        fails, is_done = self._random.random() < self.chance, self._random.random() < 0.5
        if fails and not is_done:
            raise TierAway(f"{name} was made to fail")
        result = call()
        if fails:
            raise TierAway(f"{name} was made to fail, after it was done")
        return result
