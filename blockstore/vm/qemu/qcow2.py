"""A qcow2 image as QEMU keeps the state of a VM in: an empty one to begin with, and how the state is read out of it.
(docs/interop/qcow2.txt in QEMU's sources)

    header | refcount table | refcount block | L1 table of the disk | what QEMU appends

The state lies behind the end of the disk, at the first L1 entry that the disk does not use, and only the L1 table of
the internal snapshot leads to it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Final

from blockstore.errors import VmError

_CLUSTER_BITS: Final = 16
_CLUSTER_BYTES: Final = 1 << _CLUSTER_BITS
_L2_ENTRIES: Final = _CLUSTER_BYTES // 8
_DISK_L1_ENTRIES: Final = 1
"""Those of the disk, which is one cluster that is never written."""

# magic 4s, version I, backing file Q I, cluster bits I, bytes of disk Q, encryption I, L1 entries I, L1 table Q,
# refcount table Q, its clusters I, snapshots I, snapshot table Q, features Q Q Q, refcount order I, bytes of header I
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_MAGIC: Final = b"QFI\xfb"
_VERSION: Final = 3
_REFCOUNT_ORDER: Final = 4
"""16 bits each."""

# L1 table Q, its entries I, bytes of id H, of name H, date Q, clock Q, bytes of state I (old), bytes of extra data I
_SNAPSHOT: Final = struct.Struct(">QIHHQQII")
_STATE_BYTES: Final = struct.Struct(">Q")  # the extra data begins with it

_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00
"""Of an L1 or L2 entry; 0 is a cluster that was not written."""


def empty() -> bytes:
    """An image of a disk that nothing was written to."""
    refcount_table, refcount_block, l1_table = (number * _CLUSTER_BYTES for number in (1, 2, 3))
    disk_bytes = _DISK_L1_ENTRIES * _CLUSTER_BYTES
    disk = (disk_bytes, 0, _DISK_L1_ENTRIES, l1_table, refcount_table, 1)
    header = _HEADER.pack(_MAGIC, _VERSION, 0, 0, _CLUSTER_BITS, *disk, 0, 0, 0, 0, 0, _REFCOUNT_ORDER, _HEADER.size)
    clusters = (header, struct.pack(">Q", refcount_block), struct.pack(">4H", 1, 1, 1, 1), b"")
    return b"".join(cluster.ljust(_CLUSTER_BYTES, b"\0") for cluster in clusters)


def state_of(image: int) -> Iterator[bytes]:
    """The state in the only internal snapshot of an image that was `empty`, in parts of a cluster at most; `image` is
    a descriptor. Raises VmError if there is none."""
    header = _HEADER.unpack(os.pread(image, _HEADER.size, 0))
    snapshots, table = header[11], header[12]
    if snapshots != 1:
        raise VmError(f"QEMU has kept {snapshots} device states, not one; report it, with its version")
    l1_table, *_ = _SNAPSHOT.unpack(os.pread(image, _SNAPSHOT.size, table))
    (left,) = _STATE_BYTES.unpack(os.pread(image, _STATE_BYTES.size, table + _SNAPSHOT.size))
    number = 0
    while left:
        in_l1, in_l2 = divmod(number, _L2_ENTRIES)
        l2_table = _entry(image, l1_table, _DISK_L1_ENTRIES + in_l1)
        cluster = _entry(image, l2_table, in_l2) if l2_table else 0
        size = min(left, _CLUSTER_BYTES)
        yield os.pread(image, size, cluster).ljust(size, b"\0") if cluster else bytes(size)
        left, number = left - size, number + 1


def _entry(image: int, table: int, number: int) -> int:
    """The offset in an entry of an L1 or L2 table."""
    (entry,) = struct.unpack(">Q", os.pread(image, 8, table + number * 8))
    return int(entry & _OFFSET)
