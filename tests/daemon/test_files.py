"""The mount is an ordinary file system for its files, in both modes: names, attributes, sizes, sparse files, copies."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from blockstore.store.volume import EARLIEST_S, LATEST_S
from tests.daemon.lab import Lab, Mounted, cold, drop, end, noisy, put, run, said, spawn, tree, until

pytestmark = pytest.mark.mount

DT_DIR = 4
KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = -100, 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = count(1)


@pytest.fixture
def served(standing: Callable[[], Mounted]) -> Mounted:
    """The mount that all tests of this file share."""
    return standing()


@pytest.fixture
def here(served: Mounted) -> Path:
    """A fresh top-level directory of it."""
    path = served.path / f"domain{next(_numbers)}"
    result = run(["mkdir", str(path)])
    assert result.returncode == 0, result
    return path


def fails(code: int, call: Callable[[], object]) -> None:
    """The call raises OSError with this errno."""
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == code, caught.value


def rename2(old: Path, new: Path, flags: int) -> None:
    if _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def directory_entries(path: Path) -> list[tuple[str, int, int]]:
    """(name, inode, type) of each entry, as the kernel has it: getdents64(2), a few at a time."""
    found, buffer = [], ctypes.create_string_buffer(1024)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while (size := _libc.getdents64(descriptor, buffer, len(buffer))) > 0:
            at = 0
            while at < size:
                inode, _, length, kind = struct.unpack_from("<QqHB", buffer, at)
                name = buffer.raw[at + struct.calcsize("<QqHB") : at + length].split(b"\0")[0]
                found.append((os.fsdecode(name), inode, kind))
                at += length
        assert size == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(descriptor)
    return found


# Names


def test_create_and_list(here: Path) -> None:
    names = {f"vm{number}" for number in range(300)}
    for name in names:
        (here / name).touch()
    assert set(os.listdir(here)) == names
    fails(errno.EEXIST, lambda: os.open(here / "vm1", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    fails(errno.ENOENT, lambda: os.open(here / "other", os.O_RDONLY))
    fails(errno.EISDIR, lambda: os.open(here, os.O_WRONLY))
    for name in names:
        (here / name).unlink()
    assert not os.listdir(here)
    fails(errno.ENOENT, (here / "vm1").unlink)


def test_a_listing_has_the_directory_and_its_parent_first(served: Mounted, here: Path) -> None:
    """os.listdir leaves them out."""
    names = [f"vm{number}" for number in range(300)]
    for name in names:
        (here / name).touch()
    for folder in (here, served.path):
        found = directory_entries(folder)
        assert [name for name, _, _ in found[:2]] == [".", ".."]
        assert [inode for _, inode, _ in found[:2]] == [folder.stat().st_ino, served.path.stat().st_ino]
        assert [kind for _, _, kind in found[:2]] == [DT_DIR, DT_DIR]
        assert sorted(name for name, _, _ in found[2:]) == sorted(os.listdir(folder))
    assert [name for name, _, _ in directory_entries(here)][2:] == names
    (here / "below").mkdir()
    (name, inode, _), (parent, above, _) = directory_entries(here / "below")
    assert (name, inode, parent, above) == (".", (here / "below").stat().st_ino, "..", here.stat().st_ino)


def test_unlinked_file_is_readable_and_then_gone(served: Mounted, here: Path) -> None:
    data, path = noisy(4 * MIB, 1), here / "doomed"
    stored = served.total()["stored"]
    put(path, data)
    with path.open("r+b") as file:
        path.unlink()
        assert not path.exists() and not os.listdir(here)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read() == data
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        name = f"(deleted {os.fstat(file.fileno()).st_ino})"
        assert served.status()["volumes"][name]["touched"] == 8 * MIB
    until(lambda: name not in served.status()["volumes"], "the unlinked file is freed")
    assert served.total()["stored"] <= stored


def test_unlinked_file_that_is_mapped_is_readable(here: Path) -> None:
    data = noisy(MIB, 2)
    put(here / "doomed", data)
    with (here / "doomed").open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    (here / "doomed").unlink()
    mapping[:KIB] = bytes(KIB)
    mapping.flush()
    assert mapping[:] == bytes(KIB) + data[KIB:]
    mapping.close()


def test_rename(here: Path) -> None:
    put(here / "a", b"a")
    put(here / "b", b"b")
    (here / "a").rename(here / "c")
    assert (here / "c").read_bytes() == b"a" and not (here / "a").exists()
    fails(errno.EEXIST, lambda: rename2(here / "c", here / "b", RENAME_NOREPLACE))
    rename2(here / "c", here / "b", RENAME_EXCHANGE)
    assert (here / "c").read_bytes() == b"b" and (here / "b").read_bytes() == b"a"
    rename2(here / "c", here / "d", RENAME_NOREPLACE)
    fails(errno.ENOENT, lambda: rename2(here / "d", here / "none", RENAME_EXCHANGE))
    with (here / "b").open("rb") as replaced:
        (here / "d").rename(here / "b")
        assert replaced.read() == b"a" and (here / "b").read_bytes() == b"b"
    for flags in (RENAME_WHITEOUT, RENAME_WHITEOUT | RENAME_NOREPLACE, RENAME_NOREPLACE | RENAME_EXCHANGE, 8):
        fails(errno.EINVAL, lambda flags=flags: rename2(here / "b", here / "f", flags))  # type: ignore[misc]
    assert os.listdir(here) == ["b"]
    fails(errno.ENOENT, lambda: (here / "a").rename(here / "e"))


def test_rename_of_directories(here: Path) -> None:
    (here / "deep/er").mkdir(parents=True)
    put(here / "deep/er/file", b"1")
    (here / "empty").mkdir()
    put(here / "plain", b"2")
    fails(errno.ENOTEMPTY, lambda: (here / "empty").rename(here / "deep"))
    fails(errno.EINVAL, lambda: (here / "deep").rename(here / "deep/er/in"))
    fails(errno.ENOTDIR, lambda: (here / "deep").rename(here / "plain"))
    fails(errno.EISDIR, lambda: (here / "plain").rename(here / "deep"))
    (here / "deep").rename(here / "empty")
    assert (here / "empty/er/file").read_bytes() == b"1"
    rename2(here / "empty", here / "plain", RENAME_EXCHANGE)
    assert (here / "plain/er/file").read_bytes() == b"1" and (here / "empty").read_bytes() == b"2"
    here.rename(here.parent / f"{here.name}-moved")
    assert (here.parent / f"{here.name}-moved/plain/er/file").read_bytes() == b"1"


def test_nested_directories(here: Path) -> None:
    deep = here / "/".join(f"level{number}" for number in range(40))
    deep.mkdir(parents=True)
    put(deep / "memory", b"deep")
    assert (deep / "memory").read_bytes() == b"deep"
    assert here.stat().st_nlink == 3
    fails(errno.ENOTEMPTY, (here / "level0").rmdir)
    fails(errno.ENOTDIR, (deep / "memory").rmdir)
    fails(errno.EISDIR, deep.unlink)
    fails(errno.EEXIST, deep.mkdir)
    (deep / "memory").unlink()
    os.removedirs(deep)
    assert not here.exists()


def test_removed_directory_that_is_open(here: Path) -> None:
    (here / "gone").mkdir()
    descriptor = os.open(here / "gone", os.O_RDONLY)
    (here / "gone").rmdir()
    fails(errno.ENOENT, lambda: os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    assert not os.listdir(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("name", [b"vm-\xff\xfe", b"\xc3\x28", b"new\nline \\ \t", b"%2f;'\"--", b"n" * 255])
def test_strange_names(served: Mounted, here: Path, name: bytes) -> None:
    place = os.fsencode(here) + b"/" + name
    with open(place, "wb") as file:
        file.write(b"content")
    assert os.listdir(os.fsencode(here)) == [name]
    assert Path(os.fsdecode(place)).read_bytes() == b"content"
    assert f"{here.name}/{name.decode(errors='backslashreplace')}" in served.status()["volumes"]
    assert "content" not in served.evict().stderr
    os.rename(place, place[:-1] + b"x")
    os.unlink(place[:-1] + b"x")


def test_a_name_of_256_bytes_is_refused(here: Path) -> None:
    fails(errno.ENAMETOOLONG, (here / ("n" * 256)).touch)
    fails(errno.ENAMETOOLONG, (here / ("n" * 256)).mkdir)
    put(here / "a", b"")
    fails(errno.ENAMETOOLONG, lambda: (here / "a").rename(here / ("n" * 256)))


def test_links(here: Path) -> None:
    put(here / "target", b"data")
    (here / "symbolic").symlink_to("target")
    assert (here / "symbolic").read_bytes() == b"data"
    assert os.readlink(here / "symbolic") == "target"
    assert (here / "symbolic").lstat().st_size == 6 and (here / "symbolic").is_symlink()
    (here / "dangling").symlink_to("x" * 4000)
    assert os.readlink(here / "dangling") == "x" * 4000
    fails(errno.EPERM, lambda: os.link(here / "target", here / "hard"))
    fails(errno.EPERM, lambda: os.mkfifo(here / "fifo"))
    assert (here / "target").stat().st_nlink == 1


# Attributes


def test_modes_and_owners(here: Path) -> None:
    path = here / "file"
    path.touch(mode=0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o4751)
    assert stat.S_IMODE(path.stat().st_mode) == 0o4751 and path.is_file()
    os.chown(path, 123, 456)
    assert (path.stat().st_uid, path.stat().st_gid) == (123, 456)
    os.chown(path, 0xFFFF_FFFE, -1)
    assert (path.stat().st_uid, path.stat().st_gid) == (0xFFFF_FFFE, 456)
    here.chmod(0o2775)
    os.chown(here, 0, 789)
    (here / "inherits").touch()
    assert (here / "inherits").stat().st_gid == 789


def test_new_files_are_not_for_others(here: Path) -> None:
    """docs/architecture.md, Security: the umask is the user's, the root of the mount is nobody else's to write to."""
    assert not here.parent.stat().st_mode & 0o022


def test_times(here: Path) -> None:
    path, moment = here / "file", 1_234_567_890_123_456_789
    put(path, b"1")
    os.utime(path, ns=(moment, moment + 1))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (moment, moment + 1)
    put(path, b"2")
    assert path.stat().st_mtime_ns > moment + 1
    os.utime(path, ns=(moment, moment))
    with path.open("r+b") as file:
        file.truncate(10)
    assert path.stat().st_mtime_ns > moment
    os.utime(here, ns=(moment, moment))
    (here / "other").touch()
    assert here.stat().st_mtime_ns > moment
    os.utime(path, ns=(moment, moment))
    assert cold(path) == b"2" + bytes(9) and path.stat().st_mtime_ns == moment


def test_any_time_is_kept_or_the_nearest_to_it(here: Path) -> None:
    """`cp -p` and `rsync -t` bring times from other file systems, and look whether the call has worked."""
    (here / "file").touch()
    (here / "directory").mkdir()
    (here / "link").symlink_to("x")
    kept = {
        -1: -1,
        -(10**9): -(10**9),
        EARLIEST_S: EARLIEST_S,
        EARLIEST_S - 1: EARLIEST_S,
        LATEST_S: LATEST_S,
        LATEST_S + 1: LATEST_S,
        20_000_000_000: LATEST_S,
        -(1 << 63): EARLIEST_S,
        (1 << 63) - 1: LATEST_S,
    }
    for path in tree(here):
        for time_s, kept_s in kept.items():
            os.utime(path, (time_s, time_s), follow_symlinks=False)
            found = path.lstat()
            assert (found.st_atime_ns, found.st_mtime_ns) == (kept_s * 10**9, kept_s * 10**9), (path, time_s)
        os.utime(path, ns=(-1, -999_999_999), follow_symlinks=False)
        assert (path.lstat().st_atime_ns, path.lstat().st_mtime_ns) == (-1, -999_999_999), path


def test_mapped_writes_change_mtime(here: Path) -> None:
    path = here / "file"
    put(path, bytes(MIB))
    os.utime(path, ns=(1, 1))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[5000] = 1
        mapping.flush()
        os.fsync(file.fileno())
    until(lambda: path.stat().st_mtime_ns > 1, "mtime follows a mapped write")


def test_a_time_that_was_set_outlasts_what_was_written_before(here: Path) -> None:
    """`cp -p`, `rsync -t` and `tar -x` set it through the open file, before they close it."""
    path, moment = here / "file", 1_234_567_890_123_456_789
    with path.open("wb", buffering=0) as file:
        file.write(noisy(3 * 4096 + 5, 1))
        os.utime(file.fileno(), ns=(moment, moment))
    assert path.stat().st_mtime_ns == moment
    with path.open("rb") as file:
        os.fsync(file.fileno())
    assert cold(path) == noisy(3 * 4096 + 5, 1) and path.stat().st_mtime_ns == moment
    path.chmod(0o600)  # the answer comes from the daemon, not from what the kernel has kept
    assert path.stat().st_mtime_ns == moment
    with path.open("r+b", buffering=0) as file:
        file.write(b"x")
        assert path.stat().st_mtime_ns > moment
    assert run(["cp", "-p", str(path), str(here / "copy")]).returncode == 0
    path.chmod(0o600)
    drop(here / "copy")
    assert (here / "copy").stat().st_mtime_ns == path.stat().st_mtime_ns


# Sizes and holes


def test_append_and_growth(here: Path) -> None:
    path = here / "file"
    with path.open("ab") as first, path.open("ab") as second:
        for number in range(50):
            (first, second)[number % 2].write(f"{number:03}\n".encode())
            (first, second)[number % 2].flush()
    assert path.read_bytes() == b"".join(f"{number:03}\n".encode() for number in range(50))
    with path.open("r+b") as file:
        file.seek(10_001)
        file.write(b"end")
    assert cold(path)[200:] == bytes(9801) + b"end" and path.stat().st_size == 10_004
    assert cold(path)[:3] == b"000"


APPENDER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
print("ready", flush=True)
sys.stdin.readline()
for number in range(300):
    record = f"{sys.argv[2]} {number} ".encode().ljust(333, b".") + b"\\n"
    assert os.write(descriptor, record) == len(record)
print(os.stat(sys.argv[1]).st_size, flush=True)
sys.stdin.readline()
"""


def test_several_processes_append_whole_records(here: Path) -> None:
    path, size_bytes = here / "file", 334
    path.touch()
    writers = [spawn(APPENDER, str(path), f"writer{number}") for number in range(3)]
    try:
        assert [said(writer) for writer in writers] == ["ready"] * 3
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
        sizes = [int(said(writer)) for writer in writers]
        # None of them has closed the file, and each knows what the others have appended.
        assert max(sizes) == path.stat().st_size == 900 * size_bytes and min(sizes) >= 300 * size_bytes
    finally:
        for writer in writers:
            end(writer.pid)
            writer.wait(60)
    records = cold(path).decode().splitlines()
    for name in ("writer0", "writer1", "writer2"):
        numbers = [int(record.split()[1]) for record in records if record.startswith(f"{name} ")]
        assert numbers == list(range(300)), name
    assert len(records) == 900


def test_truncated_bytes_do_not_come_back(here: Path) -> None:
    path = here / "file"
    put(path, b"x" * 20_000)
    os.truncate(path, 5_001)
    os.truncate(path, 20_000)
    assert path.read_bytes() == cold(path) == b"x" * 5_001 + bytes(14_999)
    os.truncate(path, 0)
    assert path.stat().st_blocks == 0 and not path.read_bytes()


def test_blocks_of_sparse_files(here: Path) -> None:
    path = here / "sparse"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
        assert os.fstat(file.fileno()).st_blocks == 0
        file.seek(32 * MIB)
        file.write(b"x" * 5000)
    drop(path)
    until(lambda: path.stat().st_blocks == 16, "blocks are counted")
    assert path.stat().st_size == 64 * MIB
    assert run(["du", "-B1", str(path)]).stdout.split()[0] == "8192"


def test_file_of_a_tebibyte(served: Mounted, here: Path) -> None:
    path = here / "large"
    with path.open("w+b") as file:
        file.truncate(TIB)
        for offset in (0, TIB // 2 + 5, TIB - 7):
            os.pwrite(file.fileno(), b"content", offset)
        os.fsync(file.fileno())
        assert os.lseek(file.fileno(), 4096, os.SEEK_DATA) == TIB // 2
        assert os.lseek(file.fileno(), TIB // 2, os.SEEK_HOLE) == TIB // 2 + 4096
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for offset in (0, TIB // 2 + 5, TIB - 7):
            assert os.pread(file.fileno(), 7, offset) == b"content"
        assert os.pread(file.fileno(), 4096, TIB // 4) == bytes(4096)
        fails(errno.EFBIG, lambda: file.truncate(17 * TIB))
    assert path.stat().st_size == TIB
    volume = served.status()["volumes"][f"{here.name}/large"]
    assert volume["logical"] == TIB and volume["touched"] == 3 * 4096
    path.unlink()


def test_statfs_tells_the_truth(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="128M")
    before = os.statvfs(mounted.path)
    assert before.f_blocks * before.f_frsize == 128 * MIB and before.f_namemax == 255
    assert 110 * MIB < before.f_bavail * before.f_frsize <= 128 * MIB
    put(mounted.path / "file", noisy(32 * MIB, 3))
    after = os.statvfs(mounted.path)
    taken = (before.f_bavail - after.f_bavail) * before.f_frsize
    assert 32 * MIB <= taken <= 36 * MIB and after.f_blocks == before.f_blocks
    (mounted.path / "file").unlink()
    until(lambda: before.f_bavail - os.statvfs(mounted.path).f_bavail <= 2 * 256, "room comes back")


# Domains and copies


def test_files_do_not_change_their_domain_but_mv_works(here: Path) -> None:
    other = here.parent / f"{here.name}-other"
    other.mkdir()
    data = noisy(MIB, 4)
    put(here / "file", data)
    fails(errno.EXDEV, lambda: (here / "file").rename(other / "file"))
    fails(errno.EXDEV, lambda: (here / "file").rename(here.parent / "file"))
    fails(errno.EXDEV, lambda: here.rename(other / "below"))
    assert run(["mv", str(here / "file"), str(other / "file")]).returncode == 0
    assert not (here / "file").exists() and cold(other / "file") == data


def test_exchange_across_domains_is_refused(here: Path) -> None:
    other = here.parent / f"{here.name}-other"
    other.mkdir()
    put(here / "file", b"1")
    put(other / "file", b"2")
    fails(errno.EXDEV, lambda: rename2(here / "file", other / "file", RENAME_EXCHANGE))
    assert (here / "file").read_bytes() == b"1"


def test_domains_never_share(lab: Lab) -> None:
    mounted = lab.mount()
    data = noisy(4 * MIB, 5)
    stored = []
    for place in ("one/a", "one/b", "two/a", "root"):
        (mounted.path / place).parent.mkdir(exist_ok=True)
        put(mounted.path / place, data)
        stored.append(mounted.total()["stored"])
    assert stored == [4 * MIB, 4 * MIB, 8 * MIB, 12 * MIB]


def test_cp_in_one_domain_is_a_clone(lab: Lab) -> None:
    """1 GiB: no data moves, so `stored` stays, and `touched` doubles."""
    mounted = lab.mount()
    (mounted.path / "one").mkdir()
    path, part = mounted.path / "one/a", b"".join(noisy(1000, number) + bytes(3096) for number in range(1024))
    put(path, part * 16)
    with path.open("r+b") as file:
        for position in range(64 * MIB, 1 << 30, 64 * MIB):
            assert os.copy_file_range(file.fileno(), file.fileno(), 64 * MIB, 0, position) == 64 * MIB
    before = mounted.total()
    assert before["touched"] == 1 << 30
    assert run(["cp", str(path), str(mounted.path / "one/b")]).returncode == 0
    after = mounted.status()
    assert after["total"]["stored"] == before["stored"]
    assert after["volumes"]["one/b"]["touched"] == 1 << 30 and after["total"]["touched"] == 2 << 30
    assert run(["cmp", "-n", f"{96 * MIB}", str(path), str(mounted.path / "one/b")]).returncode == 0
    with path.open("r+b") as file:
        file.write(b"changed")
    with (mounted.path / "one/b").open("rb") as file:
        assert file.read(7) == part[:7] != b"changed"


def test_cp_with_reflink_auto_clones_in_a_domain_and_copies_between_them(lab: Lab) -> None:
    mounted = lab.mount()
    for domain in ("one", "two"):
        (mounted.path / domain).mkdir()
    source, data = mounted.path / "one/a", noisy(2 * MIB + 5, 8)
    put(source, data)
    before = mounted.total()["stored"]
    for target, more in (("one/b", 0), ("two/c", len(data))):
        stored = mounted.total()["stored"]
        assert run(["cp", "--reflink=auto", str(source), str(mounted.path / target)]).returncode == 0
        assert cold(mounted.path / target) == data
        assert more <= mounted.total()["stored"] - stored <= more + 4096
    assert mounted.total()["stored"] >= before + len(data)
    assert run(["cp", "--reflink=always", str(source), str(mounted.path / "two/d")]).returncode != 0
    assert not (mounted.path / "two/d").stat().st_size


def test_copy_file_range_between_domains_copies_bytes(here: Path) -> None:
    other = here.parent / f"{here.name}-other"
    other.mkdir()
    data = noisy(3 * MIB + 77, 6)
    put(here / "a", data)
    with (here / "a").open("rb") as source, (other / "a").open("wb") as target:
        done = 0
        while copied := os.copy_file_range(source.fileno(), target.fileno(), len(data) - done):
            done += copied
    assert cold(other / "a") == data


def test_copying_a_tree_in_and_out(lab: Lab, here: Path) -> None:
    source, back = lab.path / "source", lab.path / "back"
    (source / "nested/deep").mkdir(parents=True)
    for number, size in enumerate((0, 1, 4095, 4096, 4097, 3 * MIB + 5)):
        path = source / "nested" / f"file{number}"
        path.write_bytes(noisy(size, number))
        path.chmod(0o600 + number)
        os.utime(path, ns=(10**18 + number, 10**18 + 7 * number))
    with (source / "nested/deep/sparse").open("wb") as file:
        file.truncate(8 * MIB)
        file.seek(5 * MIB)
        file.write(b"data")
    (source / "link").symlink_to("nested/file1")
    (source / "nested").chmod(0o751)
    for first, second in ((source, here / "copy"), (here / "copy", back)):
        assert run(["cp", "-a", str(first), str(second)]).returncode == 0
        assert run(["diff", "-r", "--no-dereference", str(first), str(second)]).returncode == 0
    for original in tree(source):
        for copy in (here / "copy" / original.relative_to(source), back / original.relative_to(source)):
            wanted, found = original.lstat(), copy.lstat()
            assert found.st_mode == wanted.st_mode, copy
            if not original.is_dir():
                assert found.st_size == wanted.st_size
                assert found.st_mtime_ns == wanted.st_mtime_ns, copy
    assert (here / "copy/nested/deep/sparse").stat().st_blocks <= 16


def test_concurrent_writers(here: Path) -> None:
    """Eight threads write interleaved stripes that share blocks, by write and by mapping."""
    path, threads, stripe, rounds = here / "file", 8, 1000, 300
    path.touch()
    os.truncate(path, threads * stripe * rounds)

    def by_write(thread: int) -> None:
        descriptor = os.open(path, os.O_WRONLY)
        for number in range(rounds):
            os.pwrite(descriptor, bytes([thread + 1]) * stripe, (number * threads + thread) * stripe)
            if not number % 100:
                os.fsync(descriptor)
        os.close(descriptor)

    def by_mapping(thread: int) -> None:
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            for number in range(rounds):
                start = (number * threads + thread) * stripe
                mapping[start : start + stripe] = bytes([thread + 1]) * stripe
                if not number % 100:
                    mapping.flush()

    with ThreadPoolExecutor(threads) as pool:
        work = [pool.submit((by_write, by_mapping)[thread % 2], thread) for thread in range(threads)]
        for future in work:
            future.result()
    wanted = b"".join(bytes([thread + 1]) * stripe for thread in range(threads)) * rounds
    assert cold(path) == wanted


def test_many_files_at_once(here: Path) -> None:
    def life(number: int) -> None:
        path = here / f"{number}"
        for turn in range(3):
            put(path, noisy(20_000, (number, turn)))
            drop(path)
            assert path.read_bytes() == noisy(20_000, (number, turn))
            path.rename(here / f"{number}-{turn}")
            (here / f"{number}-{turn}").rename(path)
        path.unlink()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(life, range(64)))
    assert not os.listdir(here)


def test_directory_listing_while_it_changes(here: Path) -> None:
    """Names that stay are listed once each, whatever comes and goes meanwhile."""
    staying = {f"stays{number:04}" for number in range(800)}
    for name in sorted(staying):
        (here / name).touch()
    seen: list[str] = []
    with os.scandir(here) as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number % 50 == 0:
                (here / f"new{number}").touch()
                (here / f"new{number}").unlink()
    kept = [name for name in seen if name in staying]
    assert len(kept) == len(set(kept)) == 800


def test_opening_with_o_trunc_empties_the_file(served: Mounted, here: Path) -> None:
    """The kernel leaves O_TRUNC to the daemon, which did not look at it."""
    path = here / "file"
    put(path, noisy(3 * 4096, 1))
    path.write_bytes(b"short")
    assert path.stat().st_size == 5 and path.read_bytes() == b"short"
    with path.open("r+b") as other:
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
        assert path.stat().st_size == 0 and other.read() == b""
        other.truncate(4096)
    assert cold(path) == bytes(4096)
    assert served.status()["volumes"][f"{here.name}/file"]["touched"] == 0
