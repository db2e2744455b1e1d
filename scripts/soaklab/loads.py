"""Programs that use a mount and check all that they get: `python -m soaklab.loads KIND PATH SEED`.

Each works until it gets SIGTERM, finishes its round, prints one JSON line with what it did, and ends with 0. What it
finds wrong is a traceback and another exit code; a signal of the kernel's (SIGBUS) ends it as well.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

BLOCK_BYTES: Final = 4096
MAPPED_BYTES: Final = 32 << 20
STALL_BYTES: Final = 4 << 20
REWRITTEN_BYTES: Final = 64 << 20
REREAD_BYTES: Final = 16 << 20
READ_BYTES: Final = 128 << 10

SLOW_S: Final = 0.02
"""A read that takes longer has waited for something else than the disk of a cold block."""

_wanted = True


def mapped(path: Path, seed: int) -> dict[str, int]:
    """Read and write a mapped file at random, write back, drop it from the page cache; compare with a model."""
    chance, model = random.Random(seed), bytearray(MAPPED_BYTES)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, MAPPED_BYTES)
    memory = mmap.mmap(descriptor, MAPPED_BYTES)
    words = [chance.randbytes(64) for _ in range(64)]
    reads = writes = 0
    while _wanted:
        for _ in range(500):
            start = chance.randrange(MAPPED_BYTES // BLOCK_BYTES) * BLOCK_BYTES
            assert memory[start : start + BLOCK_BYTES] == model[start : start + BLOCK_BYTES], f"wrong bytes at {start}"
            reads += 1
            new = _block(chance, words)
            memory[start : start + BLOCK_BYTES] = model[start : start + BLOCK_BYTES] = new
            writes += 1
        memory.flush()
        memory.madvise(mmap.MADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    assert memory[:] == model, "wrong bytes at the end"
    return {"reads": reads, "writes": writes}


def names(folder: Path, seed: int) -> dict[str, int]:
    """Make, rename, link, resize and remove files and folders; every call must do exactly what it does elsewhere."""
    chance, files, done = random.Random(seed), dict[str, bytes](), 0
    folder.mkdir()
    while _wanted:
        name, other = (f"name{chance.randrange(30)}" for _ in range(2))
        kind = chance.random()
        if kind < 0.35:
            content = chance.randbytes(chance.randrange(3 * BLOCK_BYTES))
            (folder / name).write_bytes(content)
            files[name] = content
        elif kind < 0.55 and name in files:
            (folder / name).rename(folder / other)
            files[other] = files.pop(name)
        elif kind < 0.75 and name in files:
            (folder / name).unlink()
            del files[name]
        elif kind < 0.85:
            (folder / "sub").mkdir()
            (folder / "sub").rmdir()
        elif kind < 0.9 and name in files:
            size = chance.randrange(3 * BLOCK_BYTES)
            os.truncate(folder / name, size)
            files[name] = files[name][:size].ljust(size, b"\0")
        elif name not in files:
            _expect_missing(folder / name)
        done += 1
        if done % 50 == 0:
            _compare(folder, files)
    _compare(folder, files)
    return {"calls": done}


def _expect_missing(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        assert error.errno == errno.ENOENT, error
    else:
        raise AssertionError(f"{path} could be removed, though it is not there")


def _compare(folder: Path, files: dict[str, bytes]) -> None:
    assert sorted(os.listdir(folder)) == sorted(files), "the folder lists other names"
    for name, content in files.items():
        found = (folder / name).read_bytes()
        assert found == content, f"{name} has {len(found)} bytes, not the {len(content)} that were written"


def stalls(path: Path, seed: int) -> dict[str, list[float]]:
    """Read cold blocks without a pause; when slow reads began (time.time) and how long they took, in seconds."""
    chance = random.Random(seed)
    content = chance.randbytes(STALL_BYTES)
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    begun, lasted = [], []
    while _wanted:
        start = chance.randrange(STALL_BYTES // BLOCK_BYTES) * BLOCK_BYTES
        os.posix_fadvise(descriptor, start, BLOCK_BYTES, os.POSIX_FADV_DONTNEED)
        before = time.time()
        assert os.pread(descriptor, BLOCK_BYTES, start) == content[start : start + BLOCK_BYTES], "wrong bytes"
        took = time.time() - before
        if took > SLOW_S:
            begun.append(before)
            lasted.append(took)
        time.sleep(0.002)
    return {"begun": begun, "lasted": lasted}


def rewritten(path: Path, seed: int) -> dict[str, int]:
    """Write a mapped file anew, write it back, drop it from the page cache, and look at all of it; counts losses.

    Nothing is written again before it was looked at: a write-back that was lost shows, once its page has left.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, REWRITTEN_BYTES)
    memory = mmap.mmap(descriptor, REWRITTEN_BYTES)
    found = {"rounds": 0, "lost_pages": 0, "failed_writes": 0, "failed_reads": 0}
    while _wanted:
        found["rounds"] += 1
        for page in range(REWRITTEN_BYTES // BLOCK_BYTES):
            memory[page * BLOCK_BYTES : (page + 1) * BLOCK_BYTES] = _stamped(seed + found["rounds"], page)
        try:
            memory.flush()
        except OSError:
            found["failed_writes"] += 1
        memory.madvise(mmap.MADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        for start in range(0, REWRITTEN_BYTES, READ_BYTES):
            try:
                data = os.pread(descriptor, READ_BYTES, start)
            except OSError:
                found["failed_reads"] += 1
                continue
            for at in range(0, READ_BYTES, BLOCK_BYTES):
                wanted = _stamped(seed + found["rounds"], (start + at) // BLOCK_BYTES)
                found["lost_pages"] += data[at : at + BLOCK_BYTES] != wanted
    return found


def reread(path: Path, seed: int) -> dict[str, int]:
    """Read a file that is not in the page cache, again and again, in long and in short pieces; counts failures."""
    content = b"".join(_stamped(seed, page) for page in range(REREAD_BYTES // BLOCK_BYTES))
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    found = {"reads": 0, "failed_reads": 0, "wrong_reads": 0}
    while _wanted:
        for read_bytes in (READ_BYTES, BLOCK_BYTES):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for start in range(0, REREAD_BYTES, read_bytes):
                found["reads"] += 1
                try:
                    data = os.pread(descriptor, read_bytes, start)
                except OSError:
                    found["failed_reads"] += 1
                    continue
                found["wrong_reads"] += data != content[start : start + read_bytes]
    return found


def _stamped(number: int, page: int) -> bytes:
    """Returns a block that no other round and no other page has, and that takes the store little time."""
    return number.to_bytes(8, "little") * 256 + page.to_bytes(8, "little") * 256


def _block(chance: random.Random, words: list[bytes]) -> bytes:
    """Of every kind that the store tells apart."""
    kind = chance.random()
    if kind < 0.1:
        return bytes(BLOCK_BYTES)
    if kind < 0.3:
        return chance.randbytes(BLOCK_BYTES)
    if kind < 0.5:
        return words[chance.randrange(8)] * 64
    return b"".join(chance.choices(words, k=64))


def _end(number: int, frame: FrameType | None) -> None:
    global _wanted
    _wanted = False


def main(arguments: list[str]) -> int:
    kinds: dict[str, Callable[[Path, int], object]] = {
        "mapped": mapped,
        "names": names,
        "stalls": stalls,
        "rewritten": rewritten,
        "reread": reread,
    }
    signal.signal(signal.SIGTERM, _end)
    print(json.dumps(kinds[arguments[0]](Path(arguments[1]), int(arguments[2]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
