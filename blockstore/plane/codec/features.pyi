"""Features: a few numbers a block, of which similar blocks are likely to share some (docs/decisions.md).

Every window of three words of the block, at each 16-byte step, is hashed with the domain's own multipliers. A
feature is the largest of these hashes under one more permutation: a change in one place leaves most windows, and
so most of the maxima, as they were (Broder's min-wise sampling). Steps of 16 bytes find content that moved within
a page, because allocators align what they hand out to 16; steps of 8 find a thirtieth more, for twice the work.
Windows of zeros hash to 0, are no content, and give no feature.
"""

from array import array
from typing import Final

from blockstore.plane.buffers import I64s, U32s

Buffer = bytes | bytearray | memoryview

FEATURES: Final = 4
"""Features a block. Six find 3 % more of what patches can save, for a tenth more work in all."""

NO_FEATURE: Final = 0

def multipliers(seed: int) -> array[int]:
    """Returns the domain's key for features, seven 32-bit numbers: an odd one for each word of a window, and one for
    each feature."""

def find_features(blocks: Buffer, places: I64s, key: array[int], features: U32s) -> None:
    """Writes the features of the blocks at these places in `blocks` to `features`, of shape (places, FEATURES) and
    C-contiguous; NO_FEATURE for a block of zeros. Works without the interpreter's lock.

    Raises ValueError for a place outside `blocks`, and for another shape.

    Ingest finds them in compiled code only (encode.pyx); this is what the test compares with the model of them, bit by
    bit."""
