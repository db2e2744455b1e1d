"""Prefetching: what is read, that nothing is read later or over what a VM has written, and what is recorded."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.vm import apart, resident
from blockstore.vm.fork import prefetch
from blockstore.vm.fork.prefetch import Prefetch, Reading
from blockstore.vm.snapshot import working_set
from blockstore.vm.snapshot.working_set import Run
from tests.daemon.lab import Mounted, drop, noisy, put, until

MIB = 1 << 20
BLOCKS = MIB // BLOCK_BYTES
RUNS = [Run(200, 40), Run(3, 1), Run(BLOCKS - 1, 9), Run(BLOCKS + 5, 3)]
"""The last ones reach beyond the end of a file of 1 MiB."""


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.mount
def test_the_runs_are_read_and_no_more(shared: Mounted) -> None:
    path = shared.path / "vm"
    put(path, noisy(MIB, 1))
    drop(path)
    with opened(path) as descriptor:
        assert not any(resident.pages_of(descriptor))
        Reading(path, RUNS).finish()
        found = resident.pages_of(descriptor)
    assert [place for place, flag in enumerate(found) if flag] == [3, *range(200, 240), BLOCKS - 1]


@pytest.mark.mount
def test_a_page_that_was_written_to_stays(shared: Mounted) -> None:
    """The worst that prefetching could do: take back what a VM has written."""
    path = shared.path / "vm"
    content = bytearray(noisy(MIB, 1))
    put(path, bytes(content))
    drop(path)
    with opened(path) as descriptor, mmap.mmap(descriptor, MIB) as memory:
        for place in (3, 200, 239, BLOCKS - 1):
            at = place * BLOCK_BYTES + 7
            content[at] = memory[at] = content[at] ^ 0xFF
        for _ in range(3):
            prefetch.read(descriptor, [Run(0, BLOCKS)])
            assert memory[:] == content
    drop(path)
    assert path.read_bytes() == content


def test_it_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "WAIT_S", 0.2)
    monkeypatch.setattr(prefetch, "_read", lambda memory, runs: signal.pause())
    reading = Reading(tmp_path, RUNS)
    pid, began = reading._pid, time.monotonic()
    reading.finish()
    assert time.monotonic() - began >= 0.2
    until(lambda: has_ended(pid), "it does not read on")
    reading.finish()


def has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def test_without_a_working_set_or_memory(tmp_path: Path) -> None:
    Reading(tmp_path / "nothing", []).finish()
    Reading(tmp_path / "nothing", RUNS).finish()
    Prefetch(tmp_path, 5).begin(tmp_path / "nothing").finish()


def test_the_first_vm_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "LOOKS_S", (0.0, 0.1))
    watching, fork = list[int](), apart.fork
    monkeypatch.setattr(apart, "fork", lambda keep, job: watching.append(fork(keep, job)))
    memory = tmp_path / "vm"
    memory.write_bytes(bytes(MIB))
    first = Prefetch(tmp_path, 5)
    first.follow(memory)
    until(lambda: working_set.load(tmp_path, 5) == [Run(0, BLOCKS)], "it is recorded")
    working_set.remove(tmp_path, 5)
    first.follow(memory)
    working_set.save(tmp_path, 6, RUNS)
    Prefetch(tmp_path, 6).follow(memory)
    assert len(watching) == 1, "once, and no other"


def test_a_vm_that_ends_early_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "LOOKS_S", (0.0, 0.0))
    memory, looks = tmp_path / "vm", []

    def pages_of(descriptor: int) -> bytes:
        looks.append(descriptor)
        memory.unlink()
        memory.with_suffix(".new").write_bytes(bytes(MIB))
        memory.with_suffix(".new").rename(memory)  # another VM of that name
        return b"\1"

    monkeypatch.setattr(resident, "pages_of", pages_of)
    for present in (True, False):
        memory.write_bytes(b"") if present else memory.unlink()
        assert prefetch._record(tmp_path, 5, memory) == 0 and not working_set.load(tmp_path, 5)
    assert len(looks) == 1


def test_what_a_save_fails_with_is_kept_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "LOOKS_S", (0.0,))
    with closing((tmp_path / "vm").open("wb")) as file:
        file.truncate(MIB)
    assert prefetch._record(tmp_path / "nothing", 5, tmp_path / "vm") == 0
