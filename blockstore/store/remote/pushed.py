"""A snapshot in a tier, for other hosts' stores: which pieces it has, and what is in them.

    piece 0          the head (JSON), put last: without it there is no snapshot
    pieces 1..       records, one of each content, in the order in which the memory has them first
    behind these     the index and the device state, each as zstd that is cut into pieces
    piece CLAIM      while it is pushed: whose push it is

The index has, for each block of the memory, 0 or its place among the records, counted from 1; and for each record its
size and the digest of what it decodes to. A piece begins where a record does not fit into the one before. What is
pushed under a name is like a store of its own, whose id is made of the name; so the keys of a tier are its alone.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import zstandard

from blockstore.errors import InputError
from blockstore.plane.tables.arrivals import highest, record_words
from blockstore.store.codec import CODEC
from blockstore.store.remote.arrivals import DIGEST_BYTES, content_digest
from blockstore.store.state.geometry import BLOCK_BYTES, MAXIMUM_DUE, SEGMENT_BYTES
from blockstore.store.state.location import LAST_PIECE
from blockstore.store.tiers import PieceMissing, Tier

if TYPE_CHECKING:
    from blockstore.plane.buffers import Bytes, U32s, U64s

HEAD: Final = 0
FIRST_PIECE: Final = 1
CLAIM: Final = LAST_PIECE
"""The piece, behind all others, by which a push sees in the end that nobody else pushed to the same name meanwhile."""

PIECE_BYTES: Final = SEGMENT_BYTES

MAXIMUM_BLOCKS: Final = MAXIMUM_DUE
"""That differ; a store can wait for no more."""

MAXIMUM_HEAD_BYTES: Final = PIECE_BYTES - 4

_VERSION: Final = 1
_LEVEL: Final = 3


class Part(NamedTuple):
    """Something that lies in pieces from `piece` on, packed, and is of `size_bytes` unpacked."""

    piece: int
    packed_bytes: int
    size_bytes: int
    sha256: str
    """Of what is packed."""


class Head(NamedTuple):
    """What piece 0 says. `blocks` of the memory differ from each other and are not zero; `facts` is for whoever starts
    a VM from it."""

    name: str
    memory_bytes: int
    blocks: int
    layout: Part
    device: Part
    facts: dict[str, Any]


class Index(NamedTuple):
    """What `layout` holds. `places` has an entry for each block of memory; the others one for each record: `where` is a
    word as rows have it, `digests` DIGEST_BYTES each."""

    places: U32s
    where: U64s
    digests: Bytes


def id_of(name: str) -> bytes:
    """The id of the store that a pushed snapshot is."""
    return hashlib.blake2b(b"blockstore snapshot " + name.encode(), digest_size=16).digest()


def record_of(block: bytes) -> bytes:
    """As it is pushed: it has to be decoded without any other block."""
    record = CODEC.encode_cold(block)
    return record if len(record) < BLOCK_BYTES else block


class Packer:
    """Collects the blocks of a memory, of which it keeps 20 bytes each and a digest of those that differ."""

    def __init__(self, memory_bytes: int) -> None:
        self.places = array("I", [0]) * (memory_bytes // BLOCK_BYTES)
        self._sizes = array("H")
        self._known: dict[bytes, int] = {}
        self._records: list[bytes] = []
        self._bytes = 0
        self._piece = FIRST_PIECE

    @property
    def blocks(self) -> int:
        """That differ, so far."""
        return len(self._known)

    def add(self, number: int, block: bytes) -> tuple[int, bytes] | None:
        """Block `number` of the memory, which is not zero; a piece that is full, and its number. Raises InputError."""
        digest = content_digest(block)
        place = self._known.get(digest)
        if place is not None:
            self.places[number] = place
            return None
        if len(self._known) >= MAXIMUM_BLOCKS:
            raise InputError(f"more than {MAXIMUM_BLOCKS} blocks differ, which no store can wait for; push less memory")
        record = record_of(block)
        full = self.rest() if self._bytes + len(record) > PIECE_BYTES else None
        self.places[number] = self._known[digest] = len(self._known) + 1
        self._sizes.append(len(record))
        self._records.append(record)
        self._bytes += len(record)
        return full

    def rest(self) -> tuple[int, bytes] | None:
        """The piece that was begun, and its number."""
        if not self._records:
            return None
        data, self._records, self._bytes = b"".join(self._records), [], 0
        self._piece += 1
        return self._piece - 1, data

    def index(self) -> bytes:
        """When all blocks were added and the rest was put."""
        return self.places.tobytes() + self._sizes.tobytes() + b"".join(self._known)

    def part(self, data: bytes) -> tuple[Part, list[tuple[int, bytes]]]:
        """Something behind all records, and the pieces that it is in."""
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
        part = Part(self._piece, len(packed), len(data), hashlib.sha256(packed).hexdigest())
        cut = [packed[start : start + PIECE_BYTES] for start in range(0, len(packed), PIECE_BYTES)]
        self._piece += len(cut)
        return part, list(enumerate(cut, part.piece))


def packed_head(head: Head) -> bytes:
    """Piece 0: its length (4 bytes, little endian), and JSON. Raises InputError if it gets too long."""
    data = json.dumps({"version": _VERSION, **head._asdict()}).encode()
    if len(data) > MAXIMUM_HEAD_BYTES:
        raise InputError(f"what is known of {head.name} is more than {MAXIMUM_HEAD_BYTES} bytes, and cannot be pushed")
    return len(data).to_bytes(4, "little") + data


def read_head(tier: Tier, name: str) -> Head:
    """Raises InputError if there is no such snapshot, or one of another version; TierAway."""
    try:
        length = int.from_bytes(tier.read(HEAD, 0, 4), "little")
        fields = json.loads(tier.read(HEAD, 4, min(length, MAXIMUM_HEAD_BYTES)))
    except PieceMissing:
        raise InputError(f"{tier.describe()} has no snapshot '{name}'; push it there first") from None
    except ValueError:
        raise _damaged(tier, name) from None
    if not isinstance(fields, dict) or fields.pop("version", None) != _VERSION:
        raise InputError(f"the snapshot '{name}' in {tier.describe()} is of another version; push it again")
    try:
        head = Head(**fields | {key: Part(*fields[key]) for key in ("layout", "device")})
        if head.memory_bytes % BLOCK_BYTES or not head.memory_bytes > 0 or not 0 <= head.blocks <= MAXIMUM_BLOCKS:
            raise ValueError
    except (TypeError, ValueError, KeyError):
        raise _damaged(tier, name) from None
    return head


def read_part(tier: Tier, head: Head, part: Part) -> bytes:
    """Raises InputError for one that is not whole, TierAway."""
    starts = range(0, part.packed_bytes, PIECE_BYTES)
    try:
        packed = b"".join(
            tier.read(part.piece + start // PIECE_BYTES, 0, min(PIECE_BYTES, part.packed_bytes - start))
            for start in starts
        )
        if hashlib.sha256(packed).hexdigest() != part.sha256:
            raise _damaged(tier, head.name)
        return zstandard.ZstdDecompressor().decompress(packed, max_output_size=part.size_bytes)
    except (PieceMissing, zstandard.ZstdError):
        raise _damaged(tier, head.name) from None


def read_index(tier: Tier, head: Head) -> Index:
    """Raises InputError for one that is not whole, TierAway."""
    count, blocks = head.blocks, head.memory_bytes // BLOCK_BYTES
    data = read_part(tier, head, head.layout)
    if len(data) != 4 * blocks + (2 + DIGEST_BYTES) * count:
        raise _damaged(tier, head.name)
    whole = memoryview(data)
    places, rest = whole[: 4 * blocks].cast("I"), whole[4 * blocks :]
    try:
        where = record_words(rest[: 2 * count], FIRST_PIECE)
    except ValueError:
        raise _damaged(tier, head.name) from None
    if highest(places) > count:
        raise _damaged(tier, head.name)
    return Index(places, where, rest[2 * count :])


def _damaged(tier: Tier, name: str) -> InputError:
    return InputError(f"the snapshot '{name}' in {tier.describe()} is not whole; push it again")
