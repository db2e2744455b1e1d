"""`blockstore evict`: memory leaves the page cache also while it is mapped, and comes back right."""

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from tests.cli.runner import invoke
from tests.daemon.lab import (
    KILL_S,
    Lab,
    Mounted,
    ask,
    blockstore,
    end,
    noisy,
    one_line,
    put,
    run,
    sha256,
    spawn,
    until,
)
from tests.vm.kept_pages import kept

pytestmark = pytest.mark.mount

CLONE_NEWNS = 0x20000
"""Of unshare(2)."""

BUSY = """
import hashlib, mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
mapping = mmap.mmap(descriptor, 0)
for line in sys.stdin:
    if line.startswith("dirty"):
        for start in range(0, len(mapping), 4096):
            mapping[start : start + 5] = line.encode()[-6:-1]
    print(hashlib.sha256(mapping[:]).hexdigest() if line != "nothing\\n" else "nothing", flush=True)
"""
"""Has a file mapped; `dirty` changes every page, and all but `nothing` prints the sum of what is mapped."""


def test_mapped_and_dirty_memory_is_evicted(mounted: Mounted) -> None:
    path = mounted.path / "memory"
    put(path, noisy(16 << 20, 1))
    process = spawn(BUSY, str(path))
    try:
        for turn in range(3):
            wanted = ask(process, f"dirty {turn:05}")
            result = blockstore("evict", str(mounted.path), "--json")
            assert result.returncode == 0 and not result.stderr, result
            figures = json.loads(result.stdout)
            assert set(figures) == {"memory"} and figures["memory"]["before"] == 16 << 20
            assert figures["memory"]["after"] == mounted.status()["volumes"]["memory"]["resident"] == 0
            assert ask(process, "nothing") == "nothing"
            assert ask(process, "sum") == wanted
    finally:
        end(process.pid)
        process.wait(KILL_S)
    assert sha256(path) == wanted


def test_snapshots_are_evicted_too(mounted: Mounted) -> None:
    for name in ("memory", ".base.snapshot"):
        put(mounted.path / name, noisy(1 << 20, name))
    assert set(json.loads(blockstore("evict", str(mounted.path), "--json").stdout)) == {"memory", ".base.snapshot"}
    (mounted.path / ".base.snapshot").read_bytes()
    one = blockstore("evict", str(mounted.path), ".base.snapshot", "--json")
    assert json.loads(one.stdout)[".base.snapshot"] == {"before": 1 << 20, "after": 0}


def test_write_back_keeps_pages_resident(mounted: Mounted) -> None:
    """A running VM must not lose its pages because the time of the file's last change moved on."""
    path = mounted.path / "memory"
    put(path, noisy(4 << 20, 1))
    process = spawn(BUSY, str(path))
    try:
        for turn in range(3):
            ask(process, f"dirty {turn:05}")
            run(["sync", "-f", str(path)])
            with kept(path):
                time.sleep(1.2)  # the kernel keeps attributes for a second
                assert path.stat().st_size == 4 << 20
                assert mounted.status()["volumes"]["memory"]["resident"] == 4 << 20
            assert ask(process, "nothing") == "nothing"
    finally:
        end(process.pid)
        process.wait(KILL_S)


def test_only_what_was_named(shared: Mounted) -> None:
    (shared.path / "domain").mkdir()
    for name in ("a", "domain/b"):
        put(shared.path / name, noisy(1 << 20, name))

    def tells_of_b_only() -> bool:
        (shared.path / "domain" / "b").read_bytes()
        return shared.evict("domain/b").stdout == "domain/b: 1.0 MiB resident, now 0 B\n"

    with kept(shared.path / "a"):
        until(tells_of_b_only, "the kernel takes none of its pages before")
        volumes = shared.status()["volumes"]
    assert (volumes["a"]["resident"], volumes["domain/b"]["resident"]) == (1 << 20, 0)
    one_line(invoke("evict", shared.path, "c"), 2, "'c'")
    one_line(invoke("evict", shared.path, "a", "../a"), 2, "'../a'")
    one_line(invoke("evict", shared.path, os.fsdecode(b"c\xff\n")), 2, "'c\\xff\\x0a'")


def test_nothing_to_evict(shared: Mounted) -> None:
    assert shared.evict().stdout == ""
    (shared.path / "empty").touch()
    os.truncate(shared.path / "empty", 1 << 30)
    assert shared.evict().stdout == "empty: 0 B resident, now 0 B\n"


def below_path_max(mounted: Mounted) -> tuple[str, int]:
    """Makes a file whose path is longer than PATH_MAX; its name below the mount, and a descriptor of it."""
    names, folder = ["f" * 250] * 17 + ["memory"], os.open(mounted.path, os.O_PATH)
    for name in names[:-1]:
        os.mkdir(name, dir_fd=folder)
        inner = os.open(name, os.O_PATH, dir_fd=folder)
        os.close(folder)
        folder = inner
    file = os.open(names[-1], os.O_RDWR | os.O_CREAT, 0o600, dir_fd=folder)
    os.write(file, noisy(1 << 20, 1))
    os.close(folder)
    return "/".join(names), file


def test_a_path_longer_than_the_kernel_takes(lab: Lab) -> None:
    mounted = lab.mount()
    name, file = below_path_max(mounted)
    put(mounted.path / "vm1", noisy(1 << 20, 2))
    assert len(name) > os.pathconf("/", "PC_PATH_MAX")
    with pytest.raises(OSError, match="too long"):
        os.stat(mounted.path / name)

    def is_told_and_evicted() -> bool:
        os.pread(file, 1 << 20, 0)
        (mounted.path / "vm1").read_bytes()
        volumes = mounted.status()["volumes"]
        figures = json.loads(mounted.evict("--json").stdout)
        return bool(
            volumes[name]["resident"] == volumes["vm1"]["resident"] == 1 << 20
            and figures == {each: {"before": 1 << 20, "after": 0} for each in (name, "vm1")}
        )

    until(is_told_and_evicted, "the kernel takes no page of the two before")
    one_line(mounted.umount(), 3, f"(process {os.getpid()}, {mounted.path}/...")
    os.close(file)


def test_what_cannot_be_opened_is_named_and_the_rest_is_done(lab: Lab) -> None:
    """What a file system that lies over a folder has is not the mount's."""
    mounted = lab.mount()
    (mounted.path / "blue").mkdir()
    for name in ("a", "blue/b", "c"):
        put(mounted.path / name, noisy(1 << 20, name))
    run(["mount", "-t", "tmpfs", "none", str(mounted.path / "blue")])
    try:
        (mounted.path / "blue/b").write_bytes(b"not the mount's")
        result = blockstore("evict", str(mounted.path))
        assert result.returncode == 1
        assert result.stdout == "".join(f"{name}: 1.0 MiB resident, now 0 B\n" for name in "ac")
        assert result.stderr.startswith("blockstore: 1 file could not be evicted: blue/b (")
        total = mounted.total()
        assert total["unseen"]["files"] == 1 and total["resident"] == 0
        (mounted.path / "blue/b").unlink()
        assert blockstore("evict", str(mounted.path), "--json").returncode == 0
        one_line(blockstore("evict", str(mounted.path), "blue/b"), 1, "blue/b", "No such file")
    finally:
        run(["umount", str(mounted.path / "blue")])
    assert mounted.total()["unseen"] is None


def let_all_open_the_device(folder: Path) -> None:
    """Gives this process, which runs one test, a /dev/fuse that each user may open, in a mount name space of its own.
    udev makes it so; where there is no udev it may be for root only."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare(2)")
    folder.mkdir()
    for arguments in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder)]):
        assert run(["mount", *arguments]).returncode == 0
    os.mknod(folder / "fuse", stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    (folder / "fuse").chmod(0o666)
    assert run(["mount", "--bind", str(folder / "fuse"), "/dev/fuse"]).returncode == 0


@pytest.mark.alone  # a new mount name space keeps all mounts of this machine, and whoever unmounts one is refused
def test_root_is_told_that_it_may_not_open_the_files_of_another_user(lab: Lab) -> None:
    """Without --allow-other the kernel lets nobody in but the user who made the mount, not even root."""
    user = ["--reuid=65534", "--regid=65534", "--clear-groups"]
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # this Python may be in root's home
    as_nobody = ["setpriv", *user, *may_read, sys.executable]
    let_all_open_the_device(lab.path / "dev")
    own = lab.path / "own"
    own.mkdir()
    (own / "mnt").mkdir()
    lab.path.chmod(0o755)
    for path in (own, own / "mnt"):
        os.chown(path, 65534, 65534)
    options = ["--state", str(own / "state"), "--pool-limit", "64M"]
    result = run([*as_nobody, "-m", "blockstore", "mount", str(own / "mnt"), *options], HOME=str(own))
    assert result.returncode == 0, result
    mounted = Mounted(own / "mnt", own / "state")
    script = "import sys; open(sys.argv[1], 'wb').write(b'a' * 4096)"
    for name in ("vm1", "vm2"):
        assert run([*as_nobody, "-c", script, str(mounted.path / name)]).returncode == 0
    result = blockstore("evict", str(mounted.path))
    one_line(
        result, 1, "2 files could not be evicted: vm1 (Permission denied), vm2 (Permission denied)", "--allow-other"
    )
    for name, *options in (["status"], ["top", "--count", "1"], ["report", "-o", "-"]):
        result = blockstore(name, str(mounted.path), *options)
        assert result.returncode == 0, result
        assert "resident memory of 2 files cannot be seen" in result.stdout + result.stderr, result
    for command in (["snapshots"], ["snapshots", "delete", "x"], ["snapshots", "show", "x"]):
        one_line(blockstore(*command, "--mount", str(mounted.path)), 1, "Permission denied")
    result = run([*as_nobody, "-m", "blockstore", "evict", str(mounted.path)])
    assert result.stdout.count("resident, now 0 B") == 2 and result.returncode == 0, result
    # Nobody else sees the mount.
    assert run([*as_nobody, "-m", "blockstore", "umount", str(mounted.path)]).returncode == 0
