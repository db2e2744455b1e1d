"""A random exerciser of files on a mount, in the way of fsx: every step is done to a model file on tmpfs too.

    python -m tests.daemon.exerciser SEED STEPS MODELS PATH...

It prints the number of the step at each comparison. Each PATH gets a model of the same size and content in the folder
MODELS. Copies go from any of the files to any other, so PATHs in different domains exercise the fallback. `--lane` adds
what only the lane can do. A difference ends the program with status 1, the seed, and the last steps; the models stay.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from blockstore.daemon.host import mounts
from blockstore.vm.memory.evict import evict
from tests.store.material import half, near, noise, text

BLOCK: Final = 4096
MAXIMUM_BYTES: Final = 6 << 20
LONGEST_BYTES: Final = 384 << 10
SMALL_WRITE_BYTES: Final = 6000
SMALL_WRITES: Final = 20
STEPS_BETWEEN_COMPARES: Final = 60
LOGGED_STEPS: Final = 200

PUNCH_HOLE: Final = 2
KEEP_SIZE: Final = 1
ZERO_RANGE: Final = 16

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Wrong(Exception):
    """The mount and the model differ."""


class File:
    """A file of the mount and its model, always changed together."""

    def __init__(self, path: Path, model: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.model = os.open(model, os.O_RDWR | os.O_CREAT, 0o600)
        self._mapping: mmap.mmap | None = None

    @property
    def size(self) -> int:
        return os.fstat(self.model).st_size

    def mapping(self) -> mmap.mmap:
        """The whole file, mapped shared; kept from step to step, as a VM keeps its memory."""
        if self._mapping is None or len(self._mapping) != self.size:
            self.unmap()
            self._mapping = mmap.mmap(self.fd, self.size)
        return self._mapping

    def unmap(self) -> None:
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None

    def reopen(self) -> None:
        self.unmap()
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)


class Exerciser:
    """Takes random steps."""

    def __init__(self, seed: int, files: list[File]) -> None:
        self.chance = random.Random(seed)
        self.files = files
        self.log: deque[str] = deque(maxlen=LOGGED_STEPS)
        self.step_number = 0
        steps: list[tuple[int, Callable[[File], None]]] = [
            (10, self.write),
            (6, self.write_direct),
            (10, self.write_mapped),
            (6, self.read),
            (5, self.read_direct),
            (6, self.read_mapped),
            (3, self.truncate),
            (4, self.copy),
            (3, self.sync),
            (4, self.drop),
            (2, self.reopen),
            (2, self.append),
            (2, self.write_at_once),
            (3, self.overwrite_by_two),
            (2, self.open_truncating),
            (2, self.evict),
            (4, self.punch),
            (2, self.allocate),
            (2, self.zero_range),
            (3, self.seek),
        ]
        self._steps = [step for _, step in steps]
        self._weights = [weight for weight, _ in steps]

    def run(self, steps: int) -> None:
        for self.step_number in range(1, steps + 1):
            file = self.chance.choice(self.files)
            (step,) = self.chance.choices(self._steps, self._weights)
            step(file)
            if self.step_number % STEPS_BETWEEN_COMPARES == 0:
                self.compare_all()
                print(self.step_number, flush=True)
        self.compare_all()

    def note(self, file: File, what: str) -> None:
        self.log.append(f"{self.step_number} {file.path.name} (size {file.size}) {what}")

    # What is written and where

    def data(self, length: int) -> bytes:
        """Blocks of few different contents, so that they are shared and patched; seeds do not enter in them."""
        blocks = bytearray()
        while len(blocks) < length:
            kind, number = self.chance.randrange(12), self.chance.randrange(60)
            if kind < 2:
                block = bytes(BLOCK)
            elif kind < 4:
                block = noise(number)
            elif kind < 6:
                block = half(number)
            elif kind < 8:
                block = text(number)
            elif kind < 11:
                block = near(text(number), self.chance.randrange(1000))
            else:
                block = self.chance.randbytes(BLOCK)
            blocks += block * self.chance.choice((1, 1, 1, 1, 4))
        return bytes(blocks[:length])

    def range(self, limit: int, unit: int = 1) -> tuple[int, int]:
        """An offset and a length inside `limit`: whole blocks half of the time, short ones mostly."""
        if self.chance.random() < 0.5:
            unit = BLOCK
        longest = self.chance.choice((100, BLOCK, 5 * BLOCK, LONGEST_BYTES))
        offset = self.chance.randrange(limit + 1) // unit * unit
        length = -(-self.chance.randint(1, longest) // unit) * unit
        return offset, min(length, (limit - offset) // unit * unit)

    # Steps

    def write(self, file: File) -> None:
        offset, length = self.range(MAXIMUM_BYTES)
        self.note(file, f"write {offset} +{length}")
        self._write(file, offset, self.data(length))

    def append(self, file: File) -> None:
        """By two open files in turn, each of which finds the end where the other one has left it."""
        lengths = [self.chance.randint(1, 3 * BLOCK) for _ in range(self.chance.randint(1, 4))]
        if file.size + sum(lengths) > MAXIMUM_BYTES:
            return
        self.note(file, f"append {lengths}")
        descriptors = [os.open(file.path, os.O_WRONLY | os.O_APPEND) for _ in range(2)]
        try:
            for number, length in enumerate(lengths):
                data = self.data(length)
                os.pwrite(file.model, data, file.size)
                self.expect(os.write(descriptors[number % 2], data), length, "append")
                self.expect(os.stat(file.path).st_size, file.size, "size after an append")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def overwrite_by_two(self, file: File) -> None:
        """A part of a page through a descriptor that may not read, and then another part of it through the mapping."""
        page = self.range(max(file.size - BLOCK, 0), BLOCK)[0]
        if page + BLOCK > file.size:
            return
        first, second = sorted(self.chance.sample(range(1, BLOCK), 2))
        self.note(file, f"overwrite {page + first} to {page + second} by write(2), and the rest by mapping")
        written, stored = self.data(second - first), self.data(BLOCK - second)
        descriptor = os.open(file.path, os.O_WRONLY)
        try:
            self.expect(os.pwrite(descriptor, written, page + first), len(written), "pwrite")
        finally:
            os.close(descriptor)
        file.mapping()[page + second : page + BLOCK] = stored
        os.pwrite(file.model, written + stored, page + first)

    def open_truncating(self, file: File) -> None:
        """O_TRUNC, and a few bytes; what was dirty before must not come back."""
        if self.chance.random() < 0.5:
            return
        data = self.data(self.chance.randint(1, 2 * BLOCK))
        self.note(file, f"open with O_TRUNC and write {len(data)}")
        file.unmap()
        descriptor = os.open(file.path, os.O_WRONLY | os.O_TRUNC)
        try:
            self.expect(os.fstat(descriptor).st_size, 0, "size after O_TRUNC")
            self.expect(os.write(descriptor, data), len(data), "write after O_TRUNC")
        finally:
            os.close(descriptor)
        os.ftruncate(file.model, 0)
        os.pwrite(file.model, data, 0)

    def evict(self, file: File) -> None:
        """As `blockstore evict` does it, mappings of this process included."""
        self.note(file, "evict")
        device = os.fstat(file.fd).st_dev
        name = f"{os.major(device)}:{os.minor(device)}"
        mount = next(mount for mount in mounts.all_mounts() if mount.device == name)
        evict(file.fd, list(mounts.mappings_of(os.getpid(), mount)))

    def write_at_once(self, file: File) -> None:
        """Small writes to all files by a thread for each: requests come while others are being stored."""
        plans = []
        for each in self.files:
            offsets = [self.chance.randrange(MAXIMUM_BYTES - SMALL_WRITE_BYTES) for _ in range(SMALL_WRITES)]
            plans.append([(offset, self.data(self.chance.randint(1, SMALL_WRITE_BYTES))) for offset in offsets])
            self.note(each, "write at once " + " ".join(f"{offset} +{len(data)}" for offset, data in plans[-1]))
        with ThreadPoolExecutor(len(self.files)) as pool:
            jobs = [pool.submit(self._write_all, each, plan) for each, plan in zip(self.files, plans, strict=True)]
        for job in jobs:
            job.result()

    def _write_all(self, file: File, plan: list[tuple[int, bytes]]) -> None:
        for offset, data in plan:
            self._write(file, offset, data)

    def _write(self, file: File, offset: int, data: bytes) -> None:
        self.expect(os.pwrite(file.fd, data, offset), len(data), "pwrite")
        os.pwrite(file.model, data, offset)

    def write_direct(self, file: File) -> None:
        offset, length = self.range(MAXIMUM_BYTES, BLOCK)
        self.note(file, f"write direct {offset} +{length}")
        data = self.data(length)
        if not length:
            return
        with mmap.mmap(-1, length) as buffer:
            buffer[:] = data
            descriptor = os.open(file.path, os.O_RDWR | os.O_DIRECT)
            try:
                self.expect(os.pwrite(descriptor, buffer, offset), length, "direct pwrite")
            finally:
                os.close(descriptor)
        os.pwrite(file.model, data, offset)

    def write_mapped(self, file: File) -> None:
        offset, length = self.range(file.size)
        self.note(file, f"write mapped {offset} +{length}")
        if not length:
            return
        data = self.data(length)
        file.mapping()[offset : offset + length] = data
        os.pwrite(file.model, data, offset)
        if self.chance.random() < 0.3:
            self.note(file, "msync")
            file.mapping().flush()

    def read(self, file: File) -> None:
        offset, length = self.range(MAXIMUM_BYTES)
        self.note(file, f"read {offset} +{length}")
        self.same(file, offset, os.pread(file.fd, length, offset), os.pread(file.model, length, offset), "pread")

    def read_direct(self, file: File) -> None:
        offset, length = self.range(MAXIMUM_BYTES, BLOCK)
        self.note(file, f"read direct {offset} +{length}")
        if not length:
            return
        with mmap.mmap(-1, length) as buffer:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_DIRECT)
            try:
                count = os.preadv(descriptor, [buffer], offset)
            finally:
                os.close(descriptor)
            self.same(file, offset, buffer[:count], os.pread(file.model, length, offset), "direct pread")

    def read_mapped(self, file: File) -> None:
        offset, length = self.range(file.size)
        self.note(file, f"read mapped {offset} +{length}")
        if length:
            found = file.mapping()[offset : offset + length]
            self.same(file, offset, found, os.pread(file.model, length, offset), "mapped read")

    def truncate(self, file: File) -> None:
        size = self.chance.choice((0, file.size, MAXIMUM_BYTES)) if self.chance.random() < 0.1 else -1
        if size < 0:
            size = self.range(MAXIMUM_BYTES)[0]
        self.note(file, f"truncate to {size}")
        file.unmap()
        os.ftruncate(file.fd, size)
        os.ftruncate(file.model, size)

    def copy(self, file: File) -> None:
        other = self.chance.choice(self.files)
        offset, length = self.range(file.size)
        target = self.range(MAXIMUM_BYTES - length)[0]
        if other is file and max(offset, target) < min(offset, target) + length:
            return
        self.note(file, f"copy {offset} +{length} to {other.path} at {target}")
        done = 0
        while done < length:
            count = os.copy_file_range(file.fd, other.fd, length - done, offset + done, target + done)
            if not count:
                raise Wrong(f"copy_file_range stopped after {done} of {length} bytes")
            done += count
        os.pwrite(other.model, os.pread(file.model, length, offset), target)

    def sync(self, file: File) -> None:
        self.note(file, "fsync")
        os.fsync(file.fd)
        self.expect(os.fstat(file.fd).st_size, file.size, "size")

    def drop(self, file: File) -> None:
        if self.chance.random() < 0.6:
            file.unmap()
        self.note(file, "fsync and drop" + (" though mapped" if file._mapping is not None else ""))
        os.fsync(file.fd)
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def reopen(self, file: File) -> None:
        self.note(file, "reopen")
        file.reopen()

    def punch(self, file: File) -> None:
        offset, length = self.range(MAXIMUM_BYTES)
        self.note(file, f"punch {offset} +{length}")
        if length:
            self._fallocate(file, PUNCH_HOLE | KEEP_SIZE, offset, length)
            self._zero_model(file, offset, length)

    def zero_range(self, file: File) -> None:
        offset, length = self.range(MAXIMUM_BYTES)
        keep = self.chance.random() < 0.5
        self.note(file, f"zero range {offset} +{length}{' keep size' if keep else ''}")
        if length:
            if not keep and offset + length > file.size:
                file.unmap()
            self._fallocate(file, ZERO_RANGE | (KEEP_SIZE if keep else 0), offset, length)
            self._zero_model(file, offset, length)
            if not keep:
                os.ftruncate(file.model, max(file.size, offset + length))

    def allocate(self, file: File) -> None:
        offset, length = self.range(MAXIMUM_BYTES)
        keep = self.chance.random() < 0.5
        self.note(file, f"allocate {offset} +{length}{' keep size' if keep else ''}")
        if length:
            if not keep and offset + length > file.size:
                file.unmap()
            self._fallocate(file, KEEP_SIZE if keep else 0, offset, length)
            if not keep:
                os.ftruncate(file.model, max(file.size, offset + length))

    def _zero_model(self, file: File, offset: int, length: int) -> None:
        os.pwrite(file.model, bytes(max(min(length, file.size - offset), 0)), offset)

    def _fallocate(self, file: File, mode: int, offset: int, length: int) -> None:
        if _libc.fallocate(file.fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), f"fallocate {mode}")

    def seek(self, file: File) -> None:
        """No byte other than zero may be in what is reported as a hole; reports must be inside the file and in turn."""
        self.note(file, "seek")
        if file._mapping is not None:
            file.mapping().flush()
        os.fsync(file.fd)
        size, model = file.size, os.pread(file.model, file.size, 0)
        position = 0
        while position < size:
            data = self._seek(file, position, os.SEEK_DATA)
            data = size if data is None else data
            if not position <= data <= size:
                raise Wrong(f"SEEK_DATA from {position} gave {data} in a file of {size}")
            if model[position:data].strip(b"\0"):
                raise Wrong(f"data between {position} and {data} is reported as a hole")
            if data == size:
                break
            hole = self._seek(file, data, os.SEEK_HOLE)
            if hole is None or not data < hole <= size:
                raise Wrong(f"SEEK_HOLE from {data} gave {hole} in a file of {size}")
            position = hole
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            if self._seek(file, size + self.chance.randrange(BLOCK), whence) is not None:
                raise Wrong("a seek from beyond the end found something")

    def _seek(self, file: File, position: int, whence: int) -> int | None:
        try:
            return os.lseek(file.fd, position, whence)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None

    # Comparing

    def compare_all(self) -> None:
        for file in self.files:
            how = self.chance.randrange(4)
            self.note(file, f"compare in way {how}")
            if how == 1:
                self.drop(file)
            if how == 2 and file.size:
                found = file.mapping()[:]
            elif how == 3:
                descriptor = os.open(file.path, os.O_RDONLY)
                try:
                    found = os.pread(descriptor, MAXIMUM_BYTES + 1, 0)
                finally:
                    os.close(descriptor)
            else:
                found = os.pread(file.fd, MAXIMUM_BYTES + 1, 0)
            self.expect(os.fstat(file.fd).st_size, file.size, "size")
            self.same(file, 0, found, os.pread(file.model, MAXIMUM_BYTES + 1, 0), "compare")

    def expect(self, found: int, wanted: int, what: str) -> None:
        if found != wanted:
            raise Wrong(f"{what}: {found}, not {wanted}")

    def same(self, file: File, offset: int, found: bytes, wanted: bytes, what: str) -> None:
        if found == wanted:
            return
        if len(found) != len(wanted):
            raise Wrong(f"{what} of {file.path} at {offset}: {len(found)} bytes, not {len(wanted)}")
        places = [place for place in range(len(found)) if found[place] != wanted[place]]
        first, last = places[0], places[-1]
        raise Wrong(
            f"{what} of {file.path} at {offset}: {len(places)} bytes differ from {offset + first} to {offset + last}; "
            f"first {found[first : first + 16].hex()}, not {wanted[first : first + 16].hex()}"
        )


def main(arguments: list[str]) -> int:
    seed, steps, models, *paths = arguments
    files = [File(Path(path), Path(models) / model_name(Path(path))) for path in paths]
    exerciser = Exerciser(int(seed), files)
    try:
        exerciser.run(int(steps))
    except (Wrong, OSError) as error:
        print("\n".join(exerciser.log))
        print(f"seed {seed}, step {exerciser.step_number}: {error}")
        return 1
    return 0


def model_name(path: Path) -> str:
    """The model of `DOMAIN/NAME` in the folder of models."""
    return f"{path.parent.name}-{path.name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
