"""Snapshots as files that can be taken elsewhere, NAME.bsnap: zstd, each part with a digest, holes and zeros left out.

    magic | header length | header (JSON) | device state | windows... | end

A window is up to 1 MiB of memory that holds anything but zeros: where it is, which of its 256 blocks are kept, and
these blocks as one zstd frame. Each window has the SHA-256 of what it stands for, and the end has that of all that is
before it, so that a file that is cut off or changed anywhere is refused before anybody can start from it. It is for its
owner's eyes only, being the memory of a VM.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import zstandard

from blockstore.errors import BlockstoreError, BusyError, InputError, MountError, OutOfRoom
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.vm.deadline import deadline
from blockstore.vm.file_work import append
from blockstore.vm.snapshot.memory_windows import WINDOW_BYTES, windows
from blockstore.vm.snapshot.snapshot_file import (
    MAXIMUM_DEVICE_BYTES,
    MAXIMUM_FACTS_BYTES,
    Facts,
    Snapshot,
    complete,
    facts_of,
    rename_to_new,
)

SUFFIX: Final = ".bsnap"

LEVEL: Final = 3
"""Of zstd: a core packs 200 MB/s with it; 6 saves 3 % more in three times the time (docs/decisions.md)."""

_WINDOW_BLOCKS: Final = WINDOW_BYTES // BLOCK_BYTES

WRITE_S: Final = 30.0
"""How long a write of one window may wait for room in the store."""

_MAGIC: Final = b"bsnap\0\0\1"
_LENGTH: Final = struct.Struct(">I")
# offset Q (all ones: the end), which blocks 32s, bytes of the frame I, sha256 of the blocks 32s
_WINDOW: Final = struct.Struct(">Q32sI32s")
_END: Final = (1 << 64) - 1

Report = Callable[[int, int], None]


def export(snapshot: Snapshot, target: Path, report: Report) -> None:
    """Write it to `target`, which is there only when it is whole. Raises BusyError, MountError."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        made = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(made, "wb") as out, snapshot.path.open("rb", buffering=0) as memory:
            _export(snapshot, memory.fileno(), _Hashing(out), report)
            out.flush()
            os.fsync(out.fileno())
        rename_to_new(partial, target)
    except FileExistsError:
        raise BusyError(f"{target} is there already; delete it, or name another file") from None
    except OSError as error:
        kind = OutOfRoom if error.errno == errno.ENOSPC else MountError
        raise kind(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def read_header(source: Path) -> tuple[str, int]:
    """Name and memory bytes of an exported snapshot. Raises InputError."""
    with _readable(source) as file:
        header, _ = _header(_Checked(file, source))
        return str(header["name"]), int(header["memory_bytes"])


def import_into(source: Path, descriptor: int, report: Report) -> None:
    """Fill the file of a snapshot from an exported one. Raises InputError for one that is not whole, OutOfRoom."""
    with _readable(source) as file, contextlib.ExitStack() as undo:
        checked = _Checked(file, source)
        header, facts = _header(checked)
        memory_bytes = int(header["memory_bytes"])
        tail = os.memfd_create("blockstore-tail")
        undo.callback(os.close, tail)
        os.pwrite(tail, _device_state(checked, header), 0)
        with _deadline(source):
            os.ftruncate(descriptor, memory_bytes)
        for offset, blocks, kept in _windows(checked, memory_bytes):
            with _deadline(source):
                for first, count, at in _runs(kept):
                    data = blocks[at * BLOCK_BYTES : (at + count) * BLOCK_BYTES]
                    _write(descriptor, data, offset + first * BLOCK_BYTES)
            report(offset, memory_bytes)
        try:
            complete(tail, memory_bytes, facts)
        except MountError as error:
            raise InputError(f"{source}: {error}") from None
        with _deadline(source):
            append(tail, descriptor, memory_bytes)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _export(snapshot: Snapshot, memory: int, out: _Hashing, report: Report) -> None:
    device_state = snapshot.device_state()
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(device_state)
    header = {
        "name": snapshot.name.rsplit("/", 1)[-1],
        "memory_bytes": snapshot.memory_bytes,
        "device_bytes": len(device_state),
        "device_packed_bytes": len(packed),
        "device_sha256": hashlib.sha256(device_state).hexdigest(),
        "facts": snapshot.facts._asdict(),
    }
    text = json.dumps(header).encode()
    out.write(_MAGIC + _LENGTH.pack(len(text)) + text + packed)
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)
    for offset, rows, kept in windows(memory, snapshot.memory_bytes, report):
        blocks = rows[kept].tobytes()
        frame = compressor.compress(blocks)
        which = np.packbits(kept, bitorder="little").tobytes().ljust(_WINDOW_BLOCKS // 8, b"\0")
        out.write(_WINDOW.pack(offset, which, len(frame), hashlib.sha256(blocks).digest()) + frame)
    out.write(_end(out.digest()))


def _end(digest: bytes) -> bytes:
    return _WINDOW.pack(_END, bytes(_WINDOW_BLOCKS // 8), 0, digest)


def _header(checked: _Checked) -> tuple[dict[str, Any], Facts]:
    if checked.read(len(_MAGIC)) != _MAGIC:
        raise InputError(f"{checked.path} is no exported snapshot of this version")
    length = _LENGTH.unpack(checked.read(_LENGTH.size))[0]
    if length > MAXIMUM_FACTS_BYTES:
        raise checked.altered()
    text = checked.read(length)
    try:
        header = json.loads(text)
        facts = facts_of(header["facts"])
        sizes = [int(header[key]) for key in ("memory_bytes", "device_bytes", "device_packed_bytes")]
    except (ValueError, TypeError, KeyError, InputError):
        raise checked.altered() from None
    if sizes[0] % BLOCK_BYTES or min(sizes) <= 0 or max(sizes[1:]) > MAXIMUM_DEVICE_BYTES:
        raise checked.altered()
    return header, facts


def _device_state(checked: _Checked, header: dict[str, Any]) -> bytes:
    state = _unpacked(checked, int(header["device_packed_bytes"]), int(header["device_bytes"]))
    if hashlib.sha256(state).hexdigest() != header.get("device_sha256"):
        raise checked.altered()
    return state


def _windows(checked: _Checked, memory_bytes: int) -> Iterator[tuple[int, bytes, np.ndarray[Any, np.dtype[np.bool_]]]]:
    """(offset, the blocks that are kept, which these are), up to the end, which is checked."""
    last = -1
    while True:
        before = checked.digest()
        record = checked.read(_WINDOW.size)
        offset, which, length, digest = _WINDOW.unpack(record)
        if offset == _END:
            if record != _end(before) or checked.file.read(1):
                raise checked.altered()
            return
        kept = np.unpackbits(np.frombuffer(which, dtype=np.uint8), bitorder="little").astype(bool)
        count = int(kept.sum())
        stop = offset + (int(np.flatnonzero(kept)[-1]) + 1 if count else 0) * BLOCK_BYTES
        if offset % BLOCK_BYTES or offset <= last or not count or stop > memory_bytes or length > 2 * WINDOW_BYTES:
            raise checked.altered()
        blocks = _unpacked(checked, length, count * BLOCK_BYTES)
        if hashlib.sha256(blocks).digest() != digest:
            raise checked.altered()
        yield offset, blocks, kept
        last = offset


def _unpacked(checked: _Checked, packed_bytes: int, size_bytes: int) -> bytes:
    """A zstd frame that must hold so many bytes."""
    packed = checked.read(packed_bytes)
    try:
        if zstandard.frame_content_size(packed) != size_bytes:
            raise checked.altered()
        return zstandard.ZstdDecompressor().decompress(packed, max_output_size=size_bytes)
    except zstandard.ZstdError:
        raise checked.altered() from None


def _runs(kept: np.ndarray[Any, np.dtype[np.bool_]]) -> Iterator[tuple[int, int, int]]:
    """(first block, how many, place among those kept) of neighbours that are kept."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], kept, [False])).astype(np.int8)))
    at = 0
    for first, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield first, stop - first, at
        at += stop - first


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


@contextlib.contextmanager
def _readable(source: Path) -> Iterator[IO[bytes]]:
    try:
        file = source.open("rb")
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from None
    with file:
        yield file


def _deadline(source: Path) -> contextlib.AbstractContextManager[None]:
    return deadline(WRITE_S, f"{source} could not be imported")


class _Hashing:
    """A file that is written, and the digest of all that was."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sum = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._sum.update(data)
        self._file.write(data)

    def digest(self) -> bytes:
        return self._sum.digest()


class _Checked:
    """A file that is read, and the digest of all that was; a part that is not all there is an error."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.file = file
        self.path = path
        self._sum = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) != size:
            raise InputError(f"{self.path} is cut off; copy it again: nothing was imported")
        self._sum.update(data)
        return data

    def digest(self) -> bytes:
        return self._sum.digest()

    def altered(self) -> BlockstoreError:
        return InputError(f"{self.path} was altered after its export; copy it again: nothing was imported")
