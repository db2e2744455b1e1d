"""An empty qcow2 file over the disk image of a guest: what the guest writes stays there, beside a saved state of it.

Written here, because qemu-img is in a package of its own. (docs/interop/qcow2.txt in QEMU's sources)
"""

import struct
from pathlib import Path

from guestlab.errors import GuestLabError

_CLUSTER_BITS = 16
_CLUSTER_BYTES = 1 << _CLUSTER_BITS
#: An entry of the first table is for a table of so many bytes of disk.
_L1_ENTRY_BYTES = _CLUSTER_BYTES // 8 * _CLUSTER_BYTES

# Magic, version, backing name's offset and length, cluster bits, disk size, encryption, entries and offset of the
# first table, offset and clusters of the reference counts' table, snapshots (2), features (3), log2 of the
# bits of a count, length of this header.
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA

# The clusters of the file: header, table of reference counts, reference counts, first table.
_COUNT_TABLE, _COUNTS, _L1_TABLE, _CLUSTERS = 1, 2, 3, 4


def make_overlay(path: Path, base: Path) -> Path:
    """Make the file `path` over `base`, a raw image, and return it."""
    name = str(base.resolve()).encode()
    extensions = _EXTENSION.pack(_BACKING_FORMAT, 3) + b"raw".ljust(8, b"\0") + _EXTENSION.pack(0, 0)
    disk_bytes = base.stat().st_size
    entries = -(-disk_bytes // _L1_ENTRY_BYTES)
    header = _HEADER.pack(
        *(b"QFI\xfb", 3, _HEADER.size + len(extensions), len(name), _CLUSTER_BITS, disk_bytes, 0),
        *(entries, _L1_TABLE * _CLUSTER_BYTES, _COUNT_TABLE * _CLUSTER_BYTES, 1, 0, 0, 0, 0, 0, 4, _HEADER.size),
    )
    first = header + extensions + name
    if len(first) > _CLUSTER_BYTES or entries * 8 > _CLUSTER_BYTES:
        raise GuestLabError(f"{base} is too large, or its name too long, for an overlay.")
    counts = struct.pack(">Q", _COUNTS * _CLUSTER_BYTES), struct.pack(f">{_CLUSTERS}H", *([1] * _CLUSTERS))
    with path.open("wb") as out:
        for number, data in enumerate((first, *counts, b"")):
            out.seek(number * _CLUSTER_BYTES)
            out.write(data)
        out.truncate(_CLUSTERS * _CLUSTER_BYTES)
    return path
