"""What the daemon says to the kernel unasked, through the descriptor of its mount (include/uapi/linux/fuse.h).

A notification is an answer to no request: unique 0, and a code in the place of the error.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

from blockstore.daemon.fuse.fuse_abi import OUT_HEADER

NOTIFY_INVAL_INODE: Final = 2
NOTIFY_RESEND: Final = 7  # Linux 6.9

# inode, offset, length
_INVAL_INODE_OUT: Final = struct.Struct("<Qqq")
_ATTRIBUTES_ONLY: Final = -1
"""As an offset: leaves the pages of the file alone."""


def resend(device_fd: int) -> None:
    """Ask for every request again that was read and not answered, by a process that is no more."""
    _notify(device_fd, NOTIFY_RESEND, b"")


def knows_inode(device_fd: int, inode: int) -> bool:
    """Does the kernel hold this inode, because somebody uses it or might again?

    May wait for the kernel to finish throwing it away, which can need this daemon: not for the lane's thread.
    """
    try:
        _notify(device_fd, NOTIFY_INVAL_INODE, _INVAL_INODE_OUT.pack(inode, _ATTRIBUTES_ONLY, 0))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN):
            return False
        raise
    return True


def _notify(device_fd: int, code: int, body: bytes) -> None:
    os.write(device_fd, OUT_HEADER.pack(OUT_HEADER.size + len(body), code, 0) + body)
