"""The files of snapshots, in a folder that stands for a mount: found, refused when damaged, cleared when half-made."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from blockstore.cli.vms.snapshots import new_place
from blockstore.daemon.host.mounts import Mount
from blockstore.daemon.host.process_stat import children
from blockstore.daemon.namespace.snapshot_names import PARTIAL
from blockstore.errors import BusyError, InputError, MountError, OutOfRoom, StateError
from blockstore.vm import file_work
from blockstore.vm.open_files import folder_of
from blockstore.vm.qemu import running
from blockstore.vm.snapshot import snapshot_file
from blockstore.vm.snapshot.snapshot_file import Facts
from tests.daemon.lab import apart

MIB = 1 << 20
FACTS = Facts("vm1", 1e9, "7.2.0", "pc-q35-7.2", "/usr/bin/qemu", ["-m", "1M"], "/", "blockstore0")


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    (tmp_path / "blue").mkdir()
    return Mount(tmp_path, "0:1", tmp_path)


def make(mount: Mount, name: str, device_state: bytes = b"devices") -> Path:
    domain, short = snapshot_file.domain_of(name), name.rsplit("/", 1)[-1]
    place = snapshot_file.place_of(mount, domain, short)
    with snapshot_file.making(mount, domain) as (path, descriptor):
        os.pwrite(descriptor, b"memory", 4096)
        fill(descriptor, device_state)
        assert path not in snapshot_file.all_paths(mount), "it is no snapshot yet"
        snapshot_file.publish(mount, path, place)
    return place


def fill(descriptor: int, device_state: bytes) -> None:
    tail = os.memfd_create("tail")
    try:
        os.pwrite(tail, device_state, 0)
        snapshot_file.complete(tail, MIB, FACTS)
        file_work.append(tail, descriptor, MIB)
    finally:
        os.close(tail)


def test_what_was_written_is_found(mount: Mount) -> None:
    make(mount, "base")
    make(mount, "blue/other", b"x" * 3 * MIB)
    assert [snapshot_file.load(mount, path).name for path in snapshot_file.all_paths(mount)] == ["base", "blue/other"]
    found = snapshot_file.find(mount, "base")
    assert found.memory_bytes == MIB and found.facts == FACTS and found.device_state() == b"devices"
    assert snapshot_file.find(mount, "other").device_state() == b"x" * 3 * MIB, "the domain may be left out"
    assert found.path.read_bytes()[:4102] == bytes(4096) + b"memory"


def test_names(mount: Mount) -> None:
    make(mount, "base")
    make(mount, "blue/base")
    assert (
        snapshot_file.find(mount, "base").name == "base" and snapshot_file.find(mount, "blue/base").name == "blue/base"
    )
    with pytest.raises(InputError, match="no snapshot 'nothing'"):
        snapshot_file.find(mount, "nothing")
    with pytest.raises(BusyError, match="snapshots delete base"):
        make(mount, "base")
    with pytest.raises(BusyError, match="snapshots delete blue/base"):
        make(mount, "blue/base")
    assert len(os.listdir(mount.path)) == 2, "the one that was refused has left nothing"
    for name in ("", ".hidden", "a/b", "x" * 101, "a b", "-x"):
        with pytest.raises(InputError, match="cannot be the name"):
            snapshot_file.check_name(name)


@pytest.mark.parametrize("cut", [1, 40, 100, MIB], ids=str)
def test_one_that_is_cut_off_is_refused(mount: Mount, cut: int) -> None:
    path = make(mount, "base")
    os.chmod(path, 0o600)
    os.truncate(path, path.stat().st_size - cut)
    with pytest.raises(StateError, match="damaged"):
        snapshot_file.find(mount, "base")


def test_a_changed_byte_is_found(mount: Mount) -> None:
    path = make(mount, "base")
    whole = path.read_bytes()
    for place in range(MIB, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            snapshot_file.find(mount, "base")
        except StateError:
            continue
        # Four bytes of the footer are for later, and mean nothing yet.
        assert len(whole) - 72 + 12 <= place < len(whole) - 72 + 16


def test_leftovers_of_the_dead_are_cleared_and_those_of_the_living_are_not(mount: Mount) -> None:
    dead = mount.path / "blue" / f".4194000-1{PARTIAL}00ff"
    dead.write_bytes(b"half")
    with snapshot_file.making(mount, "") as (path, _):
        assert path.exists() and not dead.exists()
        snapshot_file.clear_leftovers(mount)
        assert path.exists() and not snapshot_file.all_paths(mount)
    assert not path.exists()


def test_no_device_state_is_no_snapshot(mount: Mount) -> None:
    with pytest.raises(MountError, match="0 bytes"):
        make(mount, "base", b"")
    assert os.listdir(mount.path) == ["blue"]


def test_work_that_waits_in_the_kernel_is_left_behind(tmp_path: Path) -> None:
    """A process that was stopped stands for one that waits for room."""
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))
    descriptor = os.open(path, os.O_RDWR)
    before = children(os.getpid())
    work = file_work.FileWork(descriptor, descriptor, descriptor, MIB)
    try:
        work.flush(10)
        (worker,) = set(children(os.getpid())) - set(before)
        os.kill(worker, signal.SIGSTOP)
        with pytest.raises(OutOfRoom, match=r"dirty pages.* within 0\.1 s.*pool"):
            work.flush(0.1)
    finally:
        work.close()
        os.close(descriptor)


def test_a_clone_of_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    source = os.open(path, os.O_RDONLY)
    target = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    work = file_work.FileWork(source, target, source, MIB)
    try:
        with pytest.raises(MountError, match="could not be cloned"):
            work.clone(10)
    finally:
        work.close()
        os.close(source)
        os.close(target)


def test_a_snapshot_may_be_called_with_the_domain_of_its_vm() -> None:
    within = snapshot_file.name_within
    assert within("blue", "booted", "blue/vm1") == within("blue", "blue/booted", "blue/vm1") == "booted"
    assert within("", "booted", "vm1") == "booted"
    for domain, name, vm, advice in (("blue", "red/base", "blue/vm1", "call it blue/base"), ("", "a/b", "vm1", "it b")):
        with pytest.raises(InputError, match=advice):
            within(domain, name, vm)
    with pytest.raises(InputError, match="cannot be the name"):
        within("blue", "blue/ base", "blue/vm1")


def test_a_snapshot_is_told_from_a_vm(mount: Mount) -> None:
    """`fork` and `snapshot` want a VM."""
    make(mount, "blue/base")
    with pytest.raises(InputError, match=r"blue/base is a snapshot, not a VM.*blockstore restore blue/base --as"):
        running.find(mount, "blue/base", None)
    with pytest.raises(InputError, match="has no file 'blue/other'"):
        running.find(mount, "blue/other", None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_domain_that_cannot_be_read_keeps_no_other_from_being_listed() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        mount = Mount(Path(folder), "0:1", Path(folder))
        for domain in ("blue", "red"):
            (mount.path / domain).mkdir()
            make(mount, f"{domain}/base").chmod(0o644)
        (mount.path / "blue").chmod(0o700)
        mount.path.chmod(0o755)
        apart(lambda: list_as_nobody(mount), 20)


def list_as_nobody(mount: Mount) -> None:
    os.setgid(65534)
    os.setuid(65534)
    left_out: list[str] = []
    paths = snapshot_file.all_paths(mount, left_out.append)
    assert [snapshot_file.load(mount, path).name for path in paths] == ["red/base"]
    assert left_out == [f"{mount.path}/blue cannot be read: Permission denied"]
    assert snapshot_file.find(mount, "base").name == "red/base"
    snapshot_file.clear_leftovers(mount)
    with pytest.raises(MountError, match="blue cannot be read"):
        snapshot_file.all_paths(mount)
    with pytest.raises(MountError, match="cannot be looked at: Permission denied"):
        snapshot_file.is_there(snapshot_file.place_of(mount, "blue", "base"))


def test_a_place_that_the_kernel_does_not_take(mount: Mount) -> None:
    with pytest.raises(MountError, match="File name too long"):
        snapshot_file.is_there(snapshot_file.place_of(mount, "b" * 300, "base"))
    assert not snapshot_file.is_there(snapshot_file.place_of(mount, "red", "base"))


@pytest.mark.parametrize("domain", ("..", ".", "a/b", "/etc"))
def test_no_domain_leaves_the_mount(mount: Mount, domain: str) -> None:
    with pytest.raises(InputError, match="is no sharing domain"):
        snapshot_file.place_of(mount, domain, "base")
    with pytest.raises(FileNotFoundError), folder_of(mount, f"blue/../../{mount.path.name}/blue/base"):
        pass


def test_a_snapshot_is_made_in_no_folder_that_is_a_link(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (mount.path / "red").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="symbolic link"):
        new_place(mount, "red/base")
    with pytest.raises(InputError, match="is no sharing domain"):
        new_place(mount, "../base")
    assert new_place(mount, "blue/base")[0] == "blue"
