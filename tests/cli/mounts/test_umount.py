"""`blockstore umount`: refuses while a VM has a file mapped, loses nothing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from blockstore.store.state import superblock
from blockstore.store.state.home import DirectoryHome
from tests.cli.runner import invoke
from tests.daemon.lab import (
    KILL_S,
    Lab,
    Mounted,
    ask,
    blockstore,
    cold,
    daemons_of,
    end,
    ended,
    mixed_blocks,
    mounts_below,
    noisy,
    one_line,
    put,
    sha256,
    spawn,
)
from tests.daemon.logs import STANDS_STILL

pytestmark = pytest.mark.mount

MAPPER = """
import hashlib, mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
mapping = mmap.mmap(descriptor, 0)
if sys.argv[2] == "close":
    os.close(descriptor)
for line in sys.stdin:
    if line.startswith("write"):
        mapping[: 1 << 16] = bytes([int(line.split()[1])]) * (1 << 16)
        mapping.flush()
    mapping.madvise(mmap.MADV_DONTNEED)
    if sys.argv[2] != "close":
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    print(hashlib.sha256(mapping[:]).hexdigest(), flush=True)
"""
"""Maps a file, and for each line it gets prints its sum, as far as possible from the store."""


@pytest.mark.parametrize("how", ["keep", "close"])
def test_refused_while_mapped_and_forced(lab: Lab, how: str) -> None:
    mounted = lab.mount()
    path = mounted.path / "memory"
    put(path, noisy(1 << 20, 1) + b"".join(mixed_blocks(1)))
    wanted = sha256(path)
    process = spawn(MAPPER, str(path), how)
    try:
        assert ask(process, "sum") == wanted
        refused = mounted.umount()
        one_line(refused, 3, mounted.path, f"process {process.pid}", "memory", "python")
        one_line(mounted.umount("--discard"), 3, f"process {process.pid}")
        assert mounts_below(lab.path) == [mounted.path] and ask(process, "sum") == wanted
        assert sha256(path) == wanted
        daemon = mounted.daemon_pid()
        discard = how == "close"
        forced = mounted.umount("--force", *["--discard"] * discard)
        assert forced.returncode == (3 if discard else 0) and not mounts_below(lab.path), forced
        assert forced.stderr.count("\n") == 1 and f"process {mounted.supervisor_pid()}" in forced.stderr
        assert (f"rm -r {mounted.state}" in forced.stderr) == discard
        assert ask(process, "sum") == wanted and daemons_of(mounted.state) == [daemon]
        changed = ask(process, "write 7")
        assert changed != wanted and ask(process, "sum") == changed
        busy = blockstore("mount", str(mounted.path), "--state", str(mounted.state))
        one_line(busy, 3, mounted.state)
    finally:
        end(process.pid)
        process.wait(KILL_S)
    assert ended(daemon), "the daemon outlives its last user"
    again = lab.mount(state=mounted.state)
    assert sha256(again.path / "memory") == changed


def test_refused_for_a_working_directory_or_an_open_file(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "file", b"data")
    wait = "; print(input(), flush=True); input()"
    holders = [
        spawn("import sys; file = open(sys.argv[1])" + wait, str(mounted.path / "file")),
        spawn("import os, sys; os.chdir(sys.argv[1])" + wait, str(mounted.path)),
    ]
    try:
        for holder in holders:
            assert ask(holder, "hello") == "hello"
            one_line(mounted.umount(), 3, f"process {holder.pid}")
            end(holder.pid)
            holder.wait(KILL_S)
    finally:
        for holder in holders:
            end(holder.pid)
    assert mounted.umount().returncode == 0 and not mounts_below(lab.path) and not daemons_of(lab.path)


def test_mounted_again_shows_the_same_files(lab: Lab) -> None:
    """Names, attributes, holes, links and every byte."""
    mounted = lab.mount()
    chance, sums = random.Random(1), {}
    for number in range(6):
        path = mounted.path / f"domain{number % 3}" / f"nested{number % 2}" / f"vm{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = mixed_blocks(number % 4)
        chance.shuffle(blocks)
        put(path, b"".join(blocks)[: chance.randrange(1 << 20)])
        os.truncate(path, path.stat().st_size + chance.randrange(10_000))
        os.utime(path, ns=(10**18, 10**18 + number))
        path.chmod(0o600 + number)
    (mounted.path / "link").symlink_to("domain0")
    (mounted.path / "empty").mkdir()

    def seen(where: Mounted) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in sorted(where.path.rglob("*")):
            facts = path.lstat()
            found[str(path)] = (facts.st_mode, facts.st_uid, facts.st_ino, path.is_file() and facts.st_blocks)
            if path.is_file():
                found[f"{path} sum"] = (sha256(path), path.stat().st_mtime_ns)
        return found

    sums = seen(mounted)
    classes = ("touched", "zero", "shared", "patched", "compressed", "dense", "raw", "paged", "stored", "logical")
    before = {name: mounted.total()[name] for name in classes}
    for _ in range(2):
        assert mounted.umount().returncode == 0 and not daemons_of(lab.path)
        mounted = lab.mount(state=mounted.state)
        assert seen(mounted) == sums
        assert {name: mounted.total()[name] for name in classes} == before


def test_dirty_pages_are_written_back(lab: Lab) -> None:
    mounted = lab.mount()
    data = noisy(24 << 20, 2)
    with (mounted.path / "file").open("wb") as file:
        file.write(data)
    os.truncate(mounted.path / "file", len(data))
    process = spawn(MAPPER.replace("mapping.flush()", "pass"), str(mounted.path / "file"), "close")
    changed = ask(process, "write 9")
    end(process.pid)
    process.wait(KILL_S)
    assert mounted.umount().returncode == 0
    assert sha256(lab.mount(state=mounted.state).path / "file") == changed


def test_discard_removes_the_state(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "file", b"data")
    assert mounted.umount("--discard").returncode == 0
    assert not mounted.state.exists() and not mounts_below(lab.path) and not daemons_of(lab.path)
    one_line(mounted.umount(), 1, mounted.path)


def test_discard_of_a_state_that_is_not_mounted(lab: Lab) -> None:
    """Its tier is deleted with it; what is served, or no state of ours, is refused as it is."""
    mounted = lab.mount("--spill", f"file:{lab.path}/tier", pool_limit="8M")
    put(mounted.path / "file", noisy(10 << 20, 6))
    state = str(mounted.state)
    one_line(
        blockstore("umount", "--discard", "--state", state), 3, state, f"blockstore umount --discard {mounted.path}"
    )
    one_line(blockstore("umount", "--discard", str(mounted.path), "--state", "/x"), 2, mounted.path, state)
    assert mounted.status()["total"]["touched"] == 10 << 20 and (lab.path / "tier").exists()
    assert mounted.umount().returncode == 0
    (lab.path / "link").symlink_to(state)
    done = blockstore("umount", "--discard", str(mounted.path), "--state", str(lab.path / "link"))
    assert done.returncode == 0 and not done.stderr, done
    assert not mounted.state.exists() and not (lab.path / "tier").exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "foreign", "damaged", "served"])
def test_discard_deletes_nothing_else(tmp_path: Path, kind: str) -> None:
    state, data = tmp_path / "state", b"blockstore state"
    if kind != "missing":
        state.mkdir()
    if kind in ("foreign", "damaged"):
        (state / ("superblock" if kind == "damaged" else "file")).write_bytes(data)
    homes = []
    if kind == "served":  # in another name space: its mount cannot be seen, and its lock can
        homes = [DirectoryHome(state)]
        superblock.check_or_create(homes[0])
    before = sorted(os.listdir(state)) if state.exists() else None
    one_line(blockstore("umount", "--discard", "--state", str(state)), {"missing": 2, "served": 3}.get(kind, 4), state)
    assert (sorted(os.listdir(state)) if state.exists() else None) == before
    for home in homes:
        home.close()


def test_which_mount_is_meant_must_be_said() -> None:
    one_line(blockstore("umount"), 2, "MOUNTPOINT")
    one_line(blockstore("umount", "--state", "/x"), 2, "--discard")


def test_what_is_no_mount(lab: Lab) -> None:
    for path in (lab.path, lab.path / "missing", Path("/dev/shm"), Path("/")):
        one_line(invoke("umount", path), 1, path)


def test_killed_daemon(lab: Lab) -> None:
    """kill -9 while it works: umount and mount again work; what was written and synced is there."""
    mounted = lab.mount()
    data = b"".join(mixed_blocks(2)) + noisy(4 << 20, 3)
    put(mounted.path / "synced", data)
    os.truncate(mounted.path / "synced", len(data) - 1000)
    (mounted.path / "domain").mkdir()
    put(mounted.path / "domain/renamed", noisy(1 << 20, 4))
    (mounted.path / "domain/renamed").rename(mounted.path / "domain/new")
    (mounted.path / "deleted").touch()
    (mounted.path / "deleted").unlink()
    busy = spawn(
        "import os, sys\nfile = open(sys.argv[1], 'wb')\nprint(input(), flush=True)\n"
        "while True: file.write(os.urandom(1 << 20)); file.flush(); os.fsync(file.fileno()); file.seek(0)",
        str(mounted.path / "busy"),
    )
    ask(busy, "go")
    mounted.kill()
    assert ended(busy.pid), "a writer outlives the daemon"
    busy.wait()
    umounted = mounted.umount()
    assert umounted.returncode == 0 and not mounts_below(lab.path), umounted
    again = lab.mount(state=mounted.state)
    assert cold(again.path / "synced") == data[:-1000]
    assert cold(again.path / "domain/new") == noisy(1 << 20, 4)
    assert sorted(os.listdir(again.path)) == ["busy", "domain", "synced"]
    assert set(again.status()["volumes"]) == {"busy", "synced", "domain/new"}


def test_file_that_was_unlinked_while_open_when_the_daemon_died(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "file", noisy(1 << 20, 5))
    descriptor = os.open(mounted.path / "file", os.O_RDONLY)
    (mounted.path / "file").unlink()
    mounted.kill()
    with contextlib.suppress(OSError):  # ENOTCONN
        os.close(descriptor)
    assert mounted.umount().returncode == 0
    again = lab.mount(state=mounted.state)
    assert not os.listdir(again.path)
    total = again.total()
    assert total["touched"] == total["stored"] == 0, "what nobody can reach any more keeps its memory"


def test_what_others_have_in_the_state_is_not_ours_to_delete(lab: Lab) -> None:
    mounted = lab.mount()
    (mounted.state / "mine").mkdir()
    (mounted.state / "thesis.txt").touch()
    one_line(mounted.umount("--discard"), 2, "mine", "thesis.txt")
    assert sorted(os.listdir(mounted.state)) == ["mine", "thesis.txt"]


@STANDS_STILL
def test_a_stopped_daemon_does_not_hang_the_command_line(lab: Lab) -> None:
    """status answers with a sentence; nothing that reads /proc only waits for the daemon."""
    mounted = lab.mount("--watchdog", "120")
    os.kill(mounted.daemon_pid(), signal.SIGSTOP)
    try:
        one_line(blockstore("status", str(mounted.path)), 1, mounted.state)
    finally:
        os.kill(mounted.daemon_pid(), signal.SIGCONT)
    assert mounted.umount().returncode == 0
