"""The codec: blocks of 4096 bytes become records and back.

LZ4 with a dictionary is the delta coder: a *patch* is the block compressed with its reference as the dictionary. What
is cold is encoded with zstd instead, with the reference as its prefix (ZSTD_CCtx_refPrefix), or with a
dictionary (dictionary.pyi); its record is a frame without the header, which is the same for all blocks.

What is here keeps the interpreter's lock: giving it up for one block of some 5 us would cost more than it gives, and
because of it two threads cannot be in one Codec. Compiled code (codec.pxd) has a Codec for each of its threads.
"""

from blockstore.plane.codec.dictionary import Dictionary, DictionaryEncoder

Buffer = bytes | bytearray | memoryview

class DecodeError(Exception):
    """A record is damaged."""

def digest(content: Buffer, seed: int) -> int:
    """Returns the keyed 64-bit XXH3 of these bytes. It finds candidates; only comparing bytes decides."""

def collide(mask: int, flip: int) -> None:
    """Makes compiled code take `digest & mask ^ flip` for the digest of a block, in this process, from now on. For the
    test of digests that collide."""

class Codec:
    """The contexts of LZ4 and zstd: 130 KB, 0.6 MB once both cold encoders were used (sys.getsizeof)."""

    def __init__(self) -> None:
        """Raises MemoryError."""

    def encode(self, block: Buffer, reference: Buffer | None = None) -> bytes:
        """Returns the block as an LZ4 record, which may copy from `reference`; longer than the block when it does not
        compress. Raises ValueError for a block or reference that is not 4096 bytes long."""

    def encode_all(self, blocks: Buffer, seed: int) -> tuple[int, int]:
        """Digests and encodes each of these blocks, and keeps nothing: the least that storing them can take, for the
        bench. Returns the digests' exclusive or, and how many bytes of records there were. Works without the
        interpreter's lock. Raises ValueError for what is no whole blocks."""

    def encode_cold(
        self,
        block: Buffer,
        reference: Buffer | None = None,
        *,
        hard: bool = False,
        encoder: DictionaryEncoder | None = None,
    ) -> bytes:
        """Returns the block as a zstd record; with `hard` some 3 % smaller, for five times the time. `encoder` is one
        for `hard`, and of no use beside a reference. Raises ValueError as `encode` does, and MemoryError."""

    def decode(
        self, record: Buffer, encoding: int, reference: Buffer | None = None, dictionary: Dictionary | None = None
    ) -> bytes:
        """Returns the 4096 bytes of a record. `encoding` is one of store/state/geometry.py. Raises DecodeError when the
        record is damaged, or needs a dictionary and there is none, ValueError for a reference that is not 4096 bytes
        long."""
