"""The part of the FUSE protocol that the lane speaks (include/uapi/linux/fuse.h, protocol 7.31 and up).

Every request starts with IN_HEADER; READ and WRITE go on with READ_WRITE_IN, so that their first 80 bytes have
one layout. Every answer starts with OUT_HEADER, whose error is 0 or a negative errno.
"""

from __future__ import annotations

import struct
from typing import Final

FORGET: Final = 2
OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
INIT: Final = 26
CREATE: Final = 35
INTERRUPT: Final = 36
BATCH_FORGET: Final = 42
FALLOCATE: Final = 43
LSEEK: Final = 46
COPY_FILE_RANGE: Final = 47
COPY_FILE_RANGE_64: Final = 53  # Linux 6.18
UNANSWERED: Final = frozenset((FORGET, BATCH_FORGET, INTERRUPT))
"""Requests that the kernel expects no answer to."""

# len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
IN_HEADER: Final = struct.Struct("<IIQQIIIHH")
# fh, offset, size, flags, lock_owner, open flags, padding
READ_WRITE_IN: Final = struct.Struct("<QQIIQII")
# The two together, without what nobody needs: opcode, unique, nodeid; offset, size, flags
REQUEST: Final = struct.Struct("<4xIQQ24xQII16x")
# fh, offset, length, mode, padding
FALLOCATE_IN: Final = struct.Struct("<QQQII")
# fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
COPY_FILE_RANGE_IN: Final = struct.Struct("<QQQQQQQ")
# fh, offset, whence, padding
LSEEK_IN: Final = struct.Struct("<QQII")
# unique of the interrupted request
INTERRUPT_IN: Final = struct.Struct("<Q")
# count, padding; then count times (nodeid u64, nlookup u64)
BATCH_FORGET_IN: Final = struct.Struct("<II")
FORGET_ONE_BYTES: Final = 16

# len, error, unique
OUT_HEADER: Final = struct.Struct("<IiQ")
# OUT_HEADER and one 32-bit figure (fuse_write_out) or one 64-bit figure (fuse_lseek_out, fuse_copy_file_range_out)
OUT_U32: Final = struct.Struct("<IiQII")
OUT_U64: Final = struct.Struct("<IiQQ")

# In an INIT request: major, minor, max_readahead, flags, at offset 40; with INIT_EXT flags2 u32 follows
INIT_IN: Final = struct.Struct("<IIII")
# In an INIT answer: major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
# max_pages, at offset 16
INIT_OUT: Final = struct.Struct("<IIIIHHIIH")

# fuse_open_out: fh, open_flags, padding; the answer to OPEN, and behind fuse_entry_out the answer to CREATE
OPEN_OUT: Final = struct.Struct("<QII")
ENTRY_OUT_BYTES: Final = 128
OPEN_NOFLUSH: Final = 1 << 5  # FOPEN_NOFLUSH, Linux 5.16

INIT_EXT: Final = 1 << 30
HAS_RESEND: Final = 1 << 7  # in flags2: FUSE_HAS_RESEND, Linux 6.9
UNIQUE_RESEND: Final = 1 << 63
"""In the unique number of a request that was asked before, of a daemon that has died."""

UNIQUE_OFFSET: Final = 8
PID_OFFSET: Final = 32
PID: Final = struct.Struct("<I")
"""In IN_HEADER, the latter of 32 bits: of the thread that asks, in our pid name space, or 0."""

SPLICE_FLAGS: Final = 1 << 7 | 1 << 8 | 1 << 9  # FUSE_SPLICE_WRITE, _MOVE, _READ
ASYNC_READ: Final = 1 << 0
AUTO_INVAL_DATA: Final = 1 << 12
ASYNC_DIO: Final = 1 << 15

WRITE_CACHE: Final = 1  # FUSE_WRITE_CACHE: written back from the page cache, nobody's write(2)

FALLOC_KEEP_SIZE: Final = 1
FALLOC_PUNCH_HOLE: Final = 2
FALLOC_ZERO_RANGE: Final = 16

MAXIMUM_WRITE_BYTES: Final = 1 << 20
"""FUSE_MAX_MAX_PAGES (256) pages, which libfuse asks for. It is less where a pipe cannot hold as much (device.py)."""

PAGE_BYTES: Final = 4096
"""What a pipe's slot and `max_pages` count."""

HEAD_BYTES: Final = IN_HEADER.size + READ_WRITE_IN.size
assert HEAD_BYTES == REQUEST.size == 80
MAXIMUM_REQUEST_BYTES: Final = HEAD_BYTES + MAXIMUM_WRITE_BYTES + 4096
"""Room for one request. The kernel refuses less than for the largest write and 4 KiB of headers."""


def failure(unique: int, code: int) -> bytes:
    """The answer that a request has failed with this errno."""
    return OUT_HEADER.pack(OUT_HEADER.size, -code, unique)
