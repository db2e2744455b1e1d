"""`blockstore evict`: memory leaves the page cache also while it is mapped, and comes back right."""

from __future__ import annotations

import json
import os
import time

import pytest

from tests.daemon.lab import (
    KILL_S,
    Mounted,
    ask,
    blockstore,
    end,
    make_resident,
    noisy,
    one_line,
    put,
    run,
    sha256,
    spawn,
)

pytestmark = pytest.mark.mount

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
            assert set(figures) == {"memory"} and (figures["memory"]["before"] == 16 << 20 or not mounted.lane)
            assert figures["memory"]["after"] == mounted.status()["volumes"]["memory"]["resident"] == 0
            assert ask(process, "nothing") == "nothing"
            assert ask(process, "sum") == wanted
    finally:
        end(process.pid)
        process.wait(KILL_S)
    assert sha256(path) == wanted


def test_write_back_keeps_pages_resident(mounted: Mounted) -> None:
    """A running VM must not lose its pages because the time of the file's last change moved on."""
    path = mounted.path / "memory"
    put(path, noisy(4 << 20, 1))
    process = spawn(BUSY, str(path))
    try:
        for turn in range(3):
            ask(process, f"dirty {turn:05}")
            run(["sync", "-f", str(path)])
            time.sleep(1.2)  # the kernel keeps attributes for a second
            assert path.stat().st_size == 4 << 20
            if mounted.lane:  # without it the kernel drops the pages of a file whose time it sees change
                assert mounted.status()["volumes"]["memory"]["resident"] == 4 << 20
            assert ask(process, "nothing") == "nothing"
    finally:
        end(process.pid)
        process.wait(KILL_S)


def test_only_what_was_named(mounted: Mounted) -> None:
    (mounted.path / "domain").mkdir()
    for name in ("a", "domain/b"):
        put(mounted.path / name, noisy(1 << 20, name))
        make_resident(mounted.path / name)
    result = mounted.evict("domain/b")
    assert result.stdout == "domain/b: 1.0 MiB resident, now 0 B\n"
    volumes = mounted.status()["volumes"]
    assert (volumes["a"]["resident"], volumes["domain/b"]["resident"]) == (1 << 20, 0)
    one_line(blockstore("evict", str(mounted.path), "c"), 2, "'c'")
    one_line(blockstore("evict", str(mounted.path), "a", "../a"), 2, "'../a'")


def test_nothing_to_evict(mounted: Mounted) -> None:
    assert mounted.evict().stdout == ""
    (mounted.path / "empty").touch()
    os.truncate(mounted.path / "empty", 1 << 30)
    assert mounted.evict().stdout == "empty: 0 B resident, now 0 B\n"
