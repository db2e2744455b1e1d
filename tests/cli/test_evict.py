"""`blockstore evict`: memory leaves the page cache also while it is mapped, and comes back right."""

from __future__ import annotations

import json
import os

import pytest

from tests.daemon.lab import KILL_S, Mounted, ask, blockstore, end, noisy, one_line, put, sha256, spawn

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
            assert mounted.status()["volumes"]["memory"]["resident"] == 16 << 20
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


def test_only_what_was_named(mounted: Mounted) -> None:
    (mounted.path / "domain").mkdir()
    for name in ("a", "domain/b"):
        put(mounted.path / name, noisy(1 << 20, name))
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
