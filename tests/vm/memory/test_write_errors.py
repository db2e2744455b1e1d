"""Write-back that has failed: the kernel takes the pages for clean, and the store has what it had before. Evictors find
out, and have them written again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from blockstore.daemon.control import client
from blockstore.vm.file_work import FileWork
from blockstore.vm.memory.write_watch import MARK
from tests.cli.runner import invoke
from tests.daemon.lab import (
    Lab,
    Mounted,
    ask,
    blockstore,
    daemons_of,
    drop,
    end,
    ended,
    noisy,
    put,
    ready,
    spawn,
    stop,
    until,
)
from tests.daemon.logs import NO_ROOM
from tests.vm.control.test_controller import own_cgroup

pytestmark = [
    pytest.mark.mount,
    pytest.mark.logs("OSError: the test wants this write to fail$", "write-back of pages of .* had failed; "),
]

SIZE: Final = 8 << 20

FAULTY: Final = """
import os, blockstore.store.store as store
right = store.Store.write_steps
def write_steps(*arguments):
    if os.path.exists({fault!r}):
        raise OSError("the test wants this write to fail")
    return right(*arguments)
store.Store.write_steps = write_steps
from blockstore.daemon.lane.encoder_threads import EncoderThreads
EncoderThreads.steer = lambda threads, **_: threads.encoders.queue.steer(passes_on=True, holds=False)
"""
"""For the daemon: Python gets each WRITE, and while there is the file it is answered with EIO. The kernel takes one
that the daemon was reading when it was killed for the same."""

WRITER: Final = """
import hashlib, mmap, os, sys, time
from blockstore.store import sync_range
from blockstore.vm import resident
own = descriptor = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(descriptor, 0)
if sys.argv[2] == "nameless":
    os.unlink(sys.argv[1])
print("ready", flush=True)

def write_back():
    sync_range.begin(descriptor, 0, 0)
    while sum(resident.of_descriptor(descriptor)[1:]):
        time.sleep(0.01)

for line in sys.stdin:
    what = line.strip()
    if what == "write":
        for place in range(0, len(memory), 4096):
            memory[place] ^= 1
        write_back()
    elif what == "msync":
        try:
            memory.flush()
        except OSError as error:
            print(error.errno, flush=True)
            continue
    elif what == "cold":
        memory.madvise(mmap.MADV_DONTNEED)
        while resident.of_descriptor(descriptor).resident:
            write_back()
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    elif what == "look":
        print(hashlib.sha256(memory).hexdigest(), flush=True)
        continue
    print("done", flush=True)
"""
"""Maps a file and keeps it open. `write` changes all pages and has them written back, as the kernel does: without
asking how that went. `cold` has them leave, `look` gives the sum of all."""

FILLER: Final = """
import os, sys, time
file = open(sys.argv[1], "wb")
file.write(os.urandom(48 << 20))
time.sleep(600)
"""

ROUNDS: Final = 8
"""Of a loss that the machine may make worse. With DAMON, and six seconds for it, 2 rounds of 4 lost pages."""

OLD: Final = noisy(SIZE, 1)
NEW: Final = b"".join(bytes([OLD[place] ^ 1]) + OLD[place + 1 : place + 4096] for place in range(0, SIZE, 4096))


def is_new(writer: subprocess.Popen[str]) -> bool:
    found = ask(writer, "look")
    assert found in (hashlib.sha256(OLD).hexdigest(), hashlib.sha256(NEW).hexdigest())
    return found == hashlib.sha256(NEW).hexdigest()


class Faulty:
    """A mount, and the file that makes its writes fail."""

    def __init__(self, lab: Lab, name: str = "mnt") -> None:
        self.fault = lab.path / "fault"
        self.mounted: Mounted = lab.mount(name=name)
        put(self.path, OLD)
        drop(self.path)  # what is resident is the VM's, and counts in its cgroup

    @property
    def path(self) -> Path:
        return self.mounted.path / "vm"

    def lose(self, writer: subprocess.Popen[str]) -> None:
        """All pages are changed, and their write-back fails."""
        self.fault.touch()
        ask(writer, "write")
        self.fault.unlink()

    def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = self.mounted.total()["write_back"]
        return figures

    def mechanism(self) -> object:
        """What the controller tells of the VM, as soon as it has."""
        return self.mounted.status()["volumes"]["vm"]["controller"]["mechanism"]

    def await_mended(self) -> None:
        until(lambda: self.figures()["errors"] == 1, "the error is found")
        assert self.figures() == {"errors": 1, "rewritten_bytes": SIZE, "lost": 0}
        assert re.search(rf"ERROR.*write-back of pages of 'vm' had failed; .*{SIZE} bytes", self.mounted.log())


@pytest.fixture
def faulty(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    (lab.path / "sitecustomize.py").write_text(FAULTY.format(fault=str(lab.path / "fault")))
    monkeypatch.setenv("PYTHONPATH", str(lab.path))
    return Faulty(lab)


def writing(path: Path, how: str = "") -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return ready(spawn(WRITER, str(path), how))


def test_what_a_killed_daemon_has_lost_is_written_again(faulty: Faulty) -> None:
    with writing(faulty.path) as writer:
        faulty.lose(writer)
        faulty.mounted.kill_daemon()
        faulty.await_mended()
        ask(writer, "cold")
        assert is_new(writer), "the VM has its old memory back"
    faulty.mounted.kill_daemon()
    until(lambda: faulty.mounted.total()["restarts"] == 2, "another daemon")
    assert faulty.figures()["errors"] == 1, "the next daemon still knows"
    told = invoke("status", str(faulty.mounted.path), "--check")
    assert told.returncode == 1 and "write-back failed (1)" in told.stdout
    assert "8.0 MiB were written again" in invoke("status", str(faulty.mounted.path)).stderr
    assert blockstore("verify", str(faulty.mounted.path)).returncode == 0
    assert invoke("status", str(faulty.mounted.path), "--check").returncode == 0


def test_an_error_that_another_process_was_told_of_is_found(faulty: Faulty) -> None:
    """A file that is opened afterwards knows nothing of it; one that was open before does."""
    with writing(faulty.path) as writer, writing(faulty.path) as other:
        faulty.lose(writer)
        assert int(ask(other, "msync")) > 0
        faulty.mounted.kill_daemon()
        faulty.await_mended()
        ask(writer, "cold")
        assert is_new(writer)


def test_what_a_look_that_was_cut_short_was_told_of_is_written_again(faulty: Faulty) -> None:
    """Nobody is told of it again: neither the open file that was told, nor one that is opened afterwards."""
    with writing(faulty.path) as writer:
        faulty.lose(writer)
        assert int(ask(writer, "msync")) > 0
        (faulty.mounted.state / MARK).touch()
        faulty.mounted.kill_daemon()
        until(
            lambda: bool(client.ask(faulty.mounted.state, {"do": "hello"})["has_looked"]), "the controller has looked"
        )
        ask(writer, "cold")
        assert is_new(writer)
    assert faulty.figures() == {"errors": 0, "rewritten_bytes": 0, "lost": 0}, "nobody knows whether there was an error"


def test_a_file_without_a_name(faulty: Faulty) -> None:
    with writing(faulty.path, "nameless") as writer:
        faulty.lose(writer)
        faulty.mounted.kill_daemon()
        until(lambda: faulty.figures()["rewritten_bytes"] == SIZE, "it is written again")
        ask(writer, "cold")
        assert is_new(writer)


def test_umount_at_once(faulty: Faulty, lab: Lab) -> None:
    """The kernel drops all pages, and nobody has looked yet."""

    def unmount(mounted: Mounted) -> None:
        done = mounted.umount()
        assert done.returncode == 0, done

    assert_stored(lab, faulty, unmount)


def test_sigterm_at_once(faulty: Faulty, lab: Lab) -> None:
    def terminate(mounted: Mounted) -> None:
        until(lambda: bool(daemons_of(mounted.state)), "the next daemon")
        supervisor = mounted.supervisor_pid()
        os.kill(supervisor, signal.SIGTERM)
        assert ended(supervisor)

    assert_stored(lab, faulty, terminate)


def assert_stored(lab: Lab, faulty: Faulty, end_mount: Callable[[Mounted], None]) -> None:
    """Loses the write-back of a file that nobody has open, kills the daemon, ends the mount and looks into its state.

    A machine may take clean pages that no process maps, at any time (DAMON, a cgroup's memory.reclaim), and what has
    left before the look is lost. So each round has all that the log tells of, and one round has the whole file.
    """
    for number in range(ROUNDS):
        with writing(faulty.path) as writer:
            faulty.lose(writer)
        faulty.mounted.kill_daemon()
        end_mount(faulty.mounted)
        told = re.search(r"write-back of pages of 'vm' had failed; .*\((\d+) bytes\)", faulty.mounted.log())
        assert told, "nobody has looked"
        remounted = lab.mount(name=faulty.mounted.path.name, state=faulty.mounted.state)
        content = (remounted.path / "vm").read_bytes()
        pages = [slice(place, place + 4096) for place in range(0, SIZE, 4096)]
        is_new = [content[page] == NEW[page] for page in pages]
        assert all(new or content[page] == OLD[page] for new, page in zip(is_new, pages, strict=True))
        if all(is_new):
            return
        assert sum(is_new) * 4096 <= int(told[1]) < SIZE, "a page that was there was not written"
        faulty = Faulty(lab, f"mnt{number}")
    pytest.fail(f"in none of {ROUNDS} rounds the whole file was written again")


def test_evict_drops_nothing_that_was_not_written(faulty: Faulty) -> None:
    with writing(faulty.path) as writer:
        faulty.fault.touch()
        ask(writer, "write")
        refused = blockstore("evict", str(faulty.mounted.path), "vm")
        assert refused.returncode == 1 and "could not be evicted" in refused.stderr
        assert is_new(writer)
        faulty.fault.unlink()
        faulty.mounted.evict("vm")
        assert is_new(writer)
    assert faulty.figures()["errors"] >= 1


@pytest.mark.parametrize("way", ["cgroup", "madvise"])
def test_a_vm_that_is_held_down_keeps_what_was_not_written(faulty: Faulty, way: str) -> None:
    """The daemon lives, and has failed to store something."""
    with own_cgroup() if way == "cgroup" else contextlib.nullcontext() as cgroup, writing(faulty.path) as writer:
        if way == "cgroup":
            if cgroup is None:
                pytest.skip("no memory cgroup can be made here")
            cgroup.enter(writer.pid)
        assert blockstore("attach", str(writer.pid), "--resident", "64M").returncode == 0
        until(lambda: faulty.mechanism() is not None, "it is attached")
        faulty.lose(writer)
        assert blockstore("attach", str(writer.pid), "--resident", "4M").returncode == 0
        until(lambda: faulty.figures()["rewritten_bytes"] >= SIZE, "it is written again")
        until(lambda: faulty.mounted.status()["volumes"]["vm"]["resident"] <= 4 << 20, "it is held down")
        assert is_new(writer)
        ask(writer, "cold")
        assert is_new(writer)


@NO_ROOM
def test_the_controller_goes_on_while_the_pool_is_full(faulty: Faulty) -> None:
    """And what was lost is written when there is room."""
    place = str(faulty.mounted.path)
    with writing(faulty.path) as writer, writing(faulty.path) as other:
        assert blockstore("attach", str(other.pid), "--resident", "64M").returncode == 0
        controller = faulty.mounted.controller_pid()
        stop(controller)  # it would find the error, too, sooner or later
        faulty.lose(writer)
        assert blockstore("set", place, "--pool-limit", "16M").returncode == 0
        filler = spawn(FILLER, f"{place}/filler")
        try:
            until(lambda: invoke("status", place, "--check").returncode == 2, "the pool is full")
            faulty.mounted.kill_daemon()
            os.kill(controller, signal.SIGKILL)
            until(lambda: faulty.mounted.total()["stalled"] > 0, "the next daemon's pool is full")
            until(lambda: faulty.mechanism() is not None, "the controller works")
            assert blockstore("set", place, "--pool-limit", "512M").returncode == 0
            faulty.await_mended()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(controller, signal.SIGKILL)
            end(filler.pid)
            filler.wait(60)
        ask(writer, "cold")
        assert is_new(writer)


def test_a_snapshot_has_what_was_not_written(faulty: Faulty) -> None:
    with writing(faulty.path) as writer:
        faulty.lose(writer)
        source, target = os.open(faulty.path, os.O_RDONLY), os.memfd_create("none")
        work = FileWork(source, target, target, SIZE)
        try:
            work.flush(60)
            assert work.rewritten_bytes == SIZE
            work.flush(60)
            assert work.rewritten_bytes == SIZE, "once"
        finally:
            work.close()
            os.close(source)
            os.close(target)
        ask(writer, "cold")
        assert is_new(writer)
