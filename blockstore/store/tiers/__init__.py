"""Tiers: where cold segments of the pool go, out of this machine's memory.

A tier keeps *pieces*: up to 1 MiB of records each, known by a number. One file a kind of tier, each with a class that
has the methods of `Tier`; `open_tier` chooses by the scheme of the URL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from blockstore.errors import InputError, InternalSignal, MountError
from blockstore.store.codec import Buffer


class TierAway(InternalSignal):
    """The tier does not answer, is full, or answers with an error: try again later.

    Of a piece that was to be put or deleted nothing is known then: it may be as it was, as was asked for, or gone. So
    the number of a put that failed is not used again.
    """


class PieceMissing(InternalSignal):
    """The tier answers, and has not got this piece, or not so much of it."""


class Tier(Protocol):
    """Of one store. Every method may be called by several threads at once, and raises TierAway within WAIT_S."""

    def check(self) -> None:
        """Raise InputError for a place that cannot be used as it is: another store's, one that forgets what it was
        given, one that refuses our credentials. Puts our mark there if there is none. To be called before `put`."""

    def put(self, piece: int, data: Buffer) -> None:
        """Keep this, in place of what the number may have stood for. Once it returns, `read` finds it, also after the
        end of this process."""

    def read(self, piece: int, offset: int, length: int) -> bytes:
        """Exactly so many bytes. Raises PieceMissing."""

    def delete(self, piece: int) -> None:
        """Forget the piece. It is no error when it is not there."""

    def pieces(self) -> list[int]:
        """The numbers of all pieces that are there."""

    def remove(self) -> None:
        """The store is no more: delete all that is ours."""

    def describe(self) -> str:
        """How to call this place in a message, without secrets."""

    def close(self) -> None:
        """Let go of connections and descriptors; what is stored stays."""


WAIT_S = 10.0
"""After so long without an answer a tier is away. Others are served meanwhile; the one who asked asks again."""


@contextmanager
def away_is_an_error() -> Iterator[None]:
    """Turns TierAway into a MountError with the same words, for commands: a user asks again, they do not wait."""
    try:
        yield
    except TierAway as error:
        raise MountError(str(error)) from None


def open_tier(url: str, store_id: bytes) -> Tier:
    """The tier at `file:/PATH` or `valkey://HOST:PORT,...`; reaches for nothing yet. Raises InputError for another URL.

    `store_id` is the superblock's: two stores may use one place, or one is told that it is the other's.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "file" and rest.startswith("/"):
        from blockstore.store.tiers.file import FileTier

        return FileTier(rest, store_id)
    from blockstore.store.tiers.valkey_address import SCHEMES

    if scheme in SCHEMES:
        from blockstore.store.tiers.valkey import ValkeyTier  # its client takes 8 MB, for those who need it

        return ValkeyTier(url, store_id)
    raise InputError(f"--spill {url} names no tier: use file:/PATH or valkey://HOST:PORT[,HOST:PORT...]")
