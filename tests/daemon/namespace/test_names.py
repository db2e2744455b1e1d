"""Names without a mount: domains, renames, listings; and random operations beside a directory on a real file system."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from suitelab.identity import WORKSPACE_PREFIX

from blockstore.daemon.namespace.names import RENAME_EXCHANGE, RENAME_NOREPLACE, ROOT, Inode, Names

DIRECTORY, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def names(tmp_path: Path) -> Iterator[Names]:
    made = Names(tmp_path / "names.sqlite", 0, 0)
    yield made
    made.close()


def outcome(call: Callable[[], object]) -> int:
    """The errno of the call, or 0."""
    try:
        call()
    except OSError as error:
        assert error.errno
        return error.errno
    return 0


def directory(names: Names, parent: int, name: bytes) -> int:
    return names.create(parent, name, DIRECTORY, 0, 0).inode


def file(names: Names, parent: int, name: bytes) -> int:
    return names.create(parent, name, FILE, 0, 0).inode


@pytest.mark.parametrize("flags", (RENAME_NOREPLACE | RENAME_EXCHANGE, 4, 4 | RENAME_NOREPLACE, 8, 1 << 31))
def test_flags_of_rename_that_are_not_known_change_nothing(names: Names, flags: int) -> None:
    """RENAME_WHITEOUT (4) would have to leave a device node behind."""
    moved = file(names, ROOT, b"old")
    assert outcome(lambda: names.rename(ROOT, b"old", ROOT, b"new", flags)) == errno.EINVAL
    assert outcome(lambda: names.rename(ROOT, b"none", ROOT, b"new", flags)) == errno.EINVAL
    assert [(name, inode.inode) for _, name, inode in names.entries(ROOT, 0)] == [(b"old", moved)]


def test_the_first_level_is_the_domain(names: Names) -> None:
    one, two = directory(names, ROOT, b"one"), directory(names, ROOT, b"two")
    below = directory(names, one, b"below")
    deep = file(names, below, b"deep")
    top = file(names, ROOT, b"top")
    assert [names.get(inode).domain for inode in (ROOT, top, one, below, deep, two)] == [ROOT, ROOT, one, one, one, two]
    assert outcome(lambda: names.rename(below, b"deep", one, b"deep", 0)) == 0
    for parent in (ROOT, two):
        assert outcome(lambda parent=parent: names.rename(one, b"deep", parent, b"x", 0)) == errno.EXDEV  # type: ignore[misc]
        assert outcome(lambda parent=parent: names.rename(one, b"below", parent, b"x", 0)) == errno.EXDEV  # type: ignore[misc]
    assert outcome(lambda: names.rename(ROOT, b"two", one, b"x", 0)) == errno.EXDEV
    assert outcome(lambda: names.rename(ROOT, b"top", one, b"deep", RENAME_EXCHANGE)) == errno.EXDEV
    assert outcome(lambda: names.rename(ROOT, b"one", ROOT, b"renamed", 0)) == 0
    assert names.get(deep).domain == one == names.lookup(ROOT, b"renamed").inode
    assert outcome(lambda: names.rename(ROOT, b"renamed", ROOT, b"two", RENAME_EXCHANGE)) == 0
    assert names.lookup(ROOT, b"two").domain == one and names.lookup(ROOT, b"renamed").domain == two


def test_what_was_replaced_is_returned_and_can_be_forgotten(names: Names) -> None:
    old, new = file(names, ROOT, b"old"), file(names, ROOT, b"new")
    replaced = names.rename(ROOT, b"new", ROOT, b"old", 0)
    assert replaced is not None and (replaced.inode, replaced.nlink) == (old, 0)
    assert names.nameless() == [old] and names.lookup(ROOT, b"old").inode == new
    names.forget(new)
    assert names.get(new).nlink == 1, "what has a name is not forgotten"
    names.forget(old)
    assert outcome(lambda: names.get(old)) == errno.ENOENT and not names.nameless()


def test_paths_of_files(names: Names) -> None:
    one = directory(names, ROOT, b"one")
    below = directory(names, one, b"\xff below/"[:-1])
    paths = {file(names, ROOT, b"top"): "top", file(names, below, b"f"): os.fsdecode(b"one/\xff below/f")}
    names.create(ROOT, b"link", stat.S_IFLNK | 0o777, 0, 0, b"top")
    gone = file(names, one, b"gone")
    names.remove(one, b"gone", directory=False)
    assert names.files() == {**paths, gone: f"(deleted {gone})"}
    name = f"(deleted {gone})"
    alike = names.create(ROOT, name.encode(), 0o100600, 0, 0).inode
    assert names.files() == {**paths, alike: name, gone: f"{name}'"}, "status failed for two of one name"
    assert {inode: names.path_of(inode) for inode in (*paths, gone)} == {**paths, gone: None}
    assert names.count() == 8


def test_long_and_dotted_names(names: Names) -> None:
    assert outcome(lambda: file(names, ROOT, b"n" * 255)) == 0
    assert outcome(lambda: file(names, ROOT, b"n" * 256)) == errno.ENAMETOOLONG
    assert outcome(lambda: names.lookup(ROOT, b"n" * 256)) == errno.ENAMETOOLONG
    one = directory(names, ROOT, b"one")
    below = directory(names, one, b"below")
    assert names.lookup(below, b".").inode == below and names.lookup(below, b"..").inode == one
    assert names.lookup(one, b"..").inode == names.lookup(ROOT, b"..").inode == ROOT


def test_nothing_is_made_in_a_removed_directory(names: Names) -> None:
    one = directory(names, ROOT, b"one")
    names.remove(ROOT, b"one", directory=True)
    assert outcome(lambda: file(names, one, b"x")) == errno.ENOENT


def test_nothing_is_moved_into_a_removed_directory(names: Names) -> None:
    one = directory(names, ROOT, b"one")
    below = directory(names, one, b"below")
    file(names, one, b"x")
    names.remove(one, b"below", directory=True)
    assert outcome(lambda: names.rename(one, b"x", below, b"y", 0)) == errno.ENOENT
    assert names.lookup(one, b"x")


def test_a_listing_goes_on_where_it_was(names: Names) -> None:
    for number in range(20):
        file(names, ROOT, b"%02d" % number)
    position, seen = 0, []
    while batch := list(names.entries(ROOT, position))[:3]:
        seen += [name for _, name, _ in batch]
        position = batch[-1][0]
        if len(seen) == 6:
            names.remove(ROOT, seen[-1], directory=False)
            names.remove(ROOT, b"10", directory=False)
    assert seen == [b"%02d" % number for number in range(20) if number != 10]


def test_everything_is_there_after_a_kill(tmp_path: Path) -> None:
    """Another process that ends without closing; what it did is in the database."""
    child = os.fork()
    if not child:
        made = Names(tmp_path / "names.sqlite", 1, 2)
        file(made, directory(made, ROOT, b"one"), b"file")
        os._exit(0)
    os.waitpid(child, 0)
    again = Names(tmp_path / "names.sqlite", 3, 4)
    assert sorted(again.files().values()) == ["one/file"]
    assert (again.get(ROOT).uid, again.get(ROOT).gid) == (1, 2)
    again.close()


def test_nothing_is_made_when_its_volume_cannot_be(names: Names) -> None:
    def refuse(made: Inode) -> None:
        assert made.is_file and made.domain == ROOT
        raise OSError(errno.ENOSPC, "no room")

    before = names.count()
    assert outcome(lambda: names.create(ROOT, b"file", FILE, 0, 0, before=refuse)) == errno.ENOSPC
    assert outcome(lambda: names.lookup(ROOT, b"file")) == errno.ENOENT and names.count() == before
    assert file(names, ROOT, b"file")


def test_a_kill_before_the_end_of_create_leaves_no_name(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        made = Names(tmp_path / "names.sqlite", 1, 2)
        file(made, ROOT, b"before")
        made.create(ROOT, b"file", FILE, 0, 0, before=lambda inode: os._exit(0))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    again = Names(tmp_path / "names.sqlite", 3, 4)
    assert list(again.files().values()) == ["before"]
    again.close()


class Both:
    """The same operations on Names and on a directory of the file system."""

    def __init__(self, names: Names, folder: Path) -> None:
        self.names, self.folder = names, folder
        self.top = directory(names, ROOT, b"top")

    def inode(self, path: bytes) -> int:
        inode = self.top
        for part in path.split(b"/") if path else []:
            inode = self.names.lookup(inode, part).inode
        return inode

    def real(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self.folder), path)

    def paths(self) -> list[bytes]:
        return sorted(os.fsencode(path.relative_to(self.folder)) for path in self.folder.rglob("*"))

    def tree(self, inode: int, path: bytes = b"") -> list[tuple[bytes, bool, int]]:
        """(path, is it a directory, links) of everything below."""
        found = []
        for _, name, entry in self.names.entries(inode, 0):
            here = os.path.join(path, name)
            found.append((here, entry.is_directory, entry.nlink))
            found += self.tree(entry.inode, here) if entry.is_directory else []
        return sorted(found)


@pytest.mark.parametrize("seed", range(8))
def test_random_operations_beside_a_real_directory(names: Names, tmp_path: Path, seed: int) -> None:
    folder = (
        Path("/dev/shm" if os.path.isdir("/dev/shm") else tmp_path) / f"{WORKSPACE_PREFIX}names-{os.getpid()}-{seed}"
    )
    folder.mkdir()
    both, chance = Both(names, folder), random.Random(seed)
    try:
        for step in range(400):
            _compare_step(both, chance, f"seed {seed}, step {step}")
            if step % 20 == 0:
                wanted = []
                for path in both.paths():
                    facts = os.lstat(both.real(path))
                    wanted.append((path, stat.S_ISDIR(facts.st_mode), facts.st_nlink))
                assert both.tree(both.top) == wanted, f"seed {seed}, step {step}"
    finally:
        shutil.rmtree(folder)


def _compare_step(both: Both, chance: random.Random, where: str) -> None:
    directories = [b"", *(path for path in both.paths() if os.path.isdir(both.real(path)))]

    def place() -> tuple[bytes, bytes]:
        return chance.choice(directories), b"%d" % chance.randrange(5)

    (parent, name), (other, new_name) = place(), place()
    real, names = both.real(os.path.join(parent, name)), both.names
    inode = both.inode(parent)
    kind = chance.choice(("file", "directory", "unlink", "rmdir", "rename", "rename"))
    if kind == "file":
        found = outcome(lambda: file(names, inode, name))
        wanted = outcome(lambda: os.close(os.open(real, os.O_CREAT | os.O_EXCL)))
    elif kind == "directory":
        found = outcome(lambda: directory(names, inode, name))
        wanted = outcome(lambda: os.mkdir(real))
    elif kind in ("unlink", "rmdir"):
        found = outcome(lambda: names.remove(inode, name, directory=kind == "rmdir"))
        wanted = outcome(lambda: os.rmdir(real) if kind == "rmdir" else os.unlink(real))
    else:
        flags = chance.choice((0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE))
        target, to = both.real(os.path.join(other, new_name)), both.inode(other)
        found = outcome(lambda: names.rename(inode, name, to, new_name, flags))
        wanted = 0
        if _libc.renameat2(-100, real, -100, target, flags):
            wanted = ctypes.get_errno()
        kind += f" to {os.path.join(other, new_name)!r} with {flags}"
    # Where two reasons to refuse meet, the kernel answers before it asks us: any refusal is right there.
    assert (found == 0) == (wanted == 0), f"{where}: {kind} {real!r}: {found}, not {wanted}"
