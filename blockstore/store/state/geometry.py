"""Sizes and codes that are part of the stored format. Changing any of them needs a new FORMAT_VERSION.

A block is known by its *block id*, an index into the block rows. Four ids are not rows:

    HOLE   never written, or freed by the guest; reads as zeros and is not counted as touched
    ZERO   written, and all its bytes are zero; needs no row and no record
    LOST   written, and damaged beyond repair (`verify --repair`); cannot be read until it is written again
    DUE    written, at another host: it is to arrive from there (arrivals.py)

A map entry says what a block is in one 64-bit word. It carries half of the content's digest, so that an entry that
was damaged, or a row that was given away by mistake, is never taken for the block:

    bits 0..31   block id
    bits 32..63  the upper half of the digest of a row's content; fixed marks for HOLE, ZERO and LOST; of a block
                 that is due, DUE_CHECK times its place among the arrivals, so that no one bit makes it another's

A row says where its record is in one 64-bit word, so that moving a record is a single store.
location.py packs and unpacks it:

    bits 0..2    encoding (FREE, RAW, COMPRESSED, PATCHED, DENSE, DENSE_FIRST, DENSE_SECOND, DENSE_PATCHED)
    bits 3..15   record size in bytes, 1..4096
    bits 16..62  byte offset of the record in the pool
    bit  63      PAGED: the record is in the tier; bits 36..62 are the piece then, 16..35 the offset in it

So a paged word, to a reader that does not ask, is a place beyond the end of any pool, where nothing is.
"""

from typing import Final

FORMAT_VERSION: Final = 4
DICTIONARY_VERSION: Final = 5
"""Of a state that has, or had, a dictionary (dictionaries.py): code that knows none cannot read its records. Everything
else is the same, and both are opened."""

BLOCK_BYTES: Final = 4096
BLOCK_SHIFT: Final = 12
ZERO_BLOCK: Final = bytes(BLOCK_BYTES)

SEGMENT_SHIFT: Final = 20
SEGMENT_BYTES: Final = 1 << SEGMENT_SHIFT
"""The unit in which the pool takes memory from the host and gives it back. 1 MiB holds about 700 records, so
that the unused tail (at most one record) is under 0.4 %, and emptying one for compaction takes under a millisecond."""

ROW_BYTES: Final = 28
"""Of all columns of a block row together (rows.py)."""

HOLE: Final = 0
ZERO: Final = 1
LOST: Final = 2
DUE: Final = 3
FIRST_ROW: Final = 4

ID_MASK: Final = 0xFFFF_FFFF
CHECK_SHIFT: Final = 32
CHECK_MASK: Final = ID_MASK << CHECK_SHIFT
ZERO_ENTRY: Final = int.from_bytes(b"zero", "big") << CHECK_SHIFT | ZERO
LOST_ENTRY: Final = int.from_bytes(b"lost", "big") << CHECK_SHIFT | LOST

DUE_CHECK: Final = 61
"""A prime of which no power of two is a multiple, and almost no sum or difference of two."""

MAXIMUM_DUE: Final = (1 << 32) // DUE_CHECK
"""Arrivals of one store: 268 GiB of blocks that differ."""

FREE: Final = 0
RAW: Final = 1
COMPRESSED: Final = 2
PATCHED: Final = 3
DENSE: Final = 4
DENSE_FIRST: Final = 5
DENSE_SECOND: Final = 6
DENSE_PATCHED: Final = 7
"""The last four are what the others become when they are cold (densify.py): alone, alone with the first or the second
dictionary of the row's domain (dictionaries.py), and as a patch."""

SLOTS: Final = 2
"""Dictionaries that a domain has at most; the one in slot N is that of encoding DENSE_FIRST + N."""

PATCH_BITS: Final = 3
"""Both set in the encodings that are patches against a reference, and in no other: one mask asks for them all."""

HINT: Final = 1 << 31
"""Set in the reference of a row that is no patch: the other bits are the row that it seemed to be alike when it was
written. Such a number is no row's, so that damage to an encoding cannot make one of it."""

ENCODING_MASK: Final = 0x7
SIZE_SHIFT: Final = 3
SIZE_MASK: Final = 0x1FFF
OFFSET_SHIFT: Final = 16
WHERE_SEGMENT_SHIFT: Final = OFFSET_SHIFT + SEGMENT_SHIFT

PAGED: Final = 1 << 63
PIECE_MASK: Final = (PAGED >> WHERE_SEGMENT_SHIFT) - 1
"""Of a paged word, shifted by WHERE_SEGMENT_SHIFT."""
