"""Copies memory files without filling their holes."""

import os
from collections.abc import Iterator
from pathlib import Path

from guestlab.errors import GuestLabError

BLOCK_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_ZERO_BLOCK = bytes(BLOCK_BYTES)


def copy_sparse(source: Path, target: Path) -> int:
    """Copy a file, holes as holes; returns the bytes that are not in holes. `target` appears whole."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    copied_bytes = 0
    try:
        with source.open("rb") as reader, partial.open("wb") as writer:
            os.truncate(writer.fileno(), os.fstat(reader.fileno()).st_size)
            for start, end in _extents(reader.fileno()):
                for offset in range(start, end, _CHUNK_BYTES):
                    chunk = os.pread(reader.fileno(), min(_CHUNK_BYTES, end - offset), offset)
                    os.pwrite(writer.fileno(), chunk, offset)
                    copied_bytes += len(chunk)
        partial.rename(target)
    except OSError as error:
        raise GuestLabError(f"Cannot copy {source} to {target}: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return copied_bytes


def nonzero_bytes(path: Path) -> int:
    """Return how many bytes lie in 4 KiB blocks that are not all zero."""
    blocks = 0
    with path.open("rb") as reader:
        for start, end in _extents(reader.fileno()):
            for offset in range(start, end, _CHUNK_BYTES):
                chunk = os.pread(reader.fileno(), min(_CHUNK_BYTES, end - offset), offset)
                blocks += sum(chunk[at : at + BLOCK_BYTES] != _ZERO_BLOCK for at in range(0, len(chunk), BLOCK_BYTES))
    return blocks * BLOCK_BYTES


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what is not a hole."""
    end = 0
    size = os.fstat(descriptor).st_size
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
