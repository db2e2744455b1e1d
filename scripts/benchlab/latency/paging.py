"""Paging: faults on blocks in a file, beside 4 KiB reads of the same disk at random, and in Valkey, beside GETRANGE.

The file of the mount is several times what the pool holds, and the pages are of its first part, which went out first.
Client and daemon share one core, where a wake-up costs least (docs/decisions.md). In turns, some rounds: faults, reads
of the tier's own file with O_DIRECT, and through the page cache, from which the file is dropped before.
"""

from __future__ import annotations

import mmap
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from benchlab import images, machine
from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.figures import Figure, from_repetitions, ratios
from benchlab.latency import faults
from benchlab.mounts import StoreMount
from benchlab.peers.valkey_server import Server
from blockstore.store.state.pool_limit import MINIMUM_LIMIT_BYTES

DISK_TARGET: Final = 3.0

_DATA_BYTES: Final = 384 << 20
_COLD_SHARE: Final = 0.3
"""Of the file: all of it is in the tier."""

_FAULTS: Final = 1000
_ROUNDS: Final = 7
_OUT_S: Final = 30.0


Reader = Callable[[np.random.Generator], float]


def measure(bench: Bench) -> list[Figure]:
    """p50 of faults, of two ways to read the disk, and of GETRANGE; and what faults take against these."""
    tier = bench.workspace.mounts / "tier"
    faulted, (direct, cached), note = _in_turns(
        bench,
        f"file:{tier}",
        lambda random: _read_us(tier, random, os.O_DIRECT),
        lambda random: _read_us(tier, random, 0),
    )
    figures = [
        from_repetitions(
            "paging", "fault on a paged block / O_DIRECT read, p50", ratios(faulted, direct), target=DISK_TARGET
        ),
        from_repetitions("paging", "fault on a paged block / read without O_DIRECT, p50", ratios(faulted, cached)),
        from_repetitions("paging", "fault on a paged block, p50", faulted, "us", note=note),
        from_repetitions("paging", "4 KiB O_DIRECT read of the same disk, p50", direct, "us"),
        from_repetitions("paging", "the same without O_DIRECT, p50", cached, "us"),
    ]
    with machine.pinned(machine.cores()[1]):
        server = Server(bench.workspace.states)
    try:
        url = f"valkey://127.0.0.1:{server.port}"
        faulted, (asked,), note = _in_turns(bench, url, lambda random: _get_range_us(server.port, random))
    finally:
        server.stop()
    return [
        *figures,
        from_repetitions("paging", "fault on a block in Valkey / GETRANGE, p50", ratios(faulted, asked), target=2.0),
        from_repetitions("paging", "fault on a block in Valkey, p50", faulted, "us", note=note),
        from_repetitions("paging", "GETRANGE of 2 KiB on a bare socket, p50", asked, "us"),
    ]


def _in_turns(bench: Bench, url: str, *readers: Reader) -> tuple[list[float], list[list[float]], str]:
    """p50 of faults on blocks in the tier at `url`, and what the readers say, round by round; how many were in it."""
    core = machine.cores()[0]
    data_bytes, rounds = (_DATA_BYTES >> 2, 2) if bench.quick else (_DATA_BYTES, _ROUNDS)
    limit_bytes = max(data_bytes >> 4, MINIMUM_LIMIT_BYTES)
    bench.say(f"paging: {rounds} rounds over {data_bytes >> 20} MiB with a pool of {limit_bytes >> 20} MiB")
    source = faults.write_source(bench, data_bytes)
    options = ("--spill", url, "--pool-limit", str(limit_bytes), "--background-cpu", "0", "--no-patch")
    faulted: list[float] = []
    read: list[list[float]] = [[] for _ in readers]
    with StoreMount(bench.workspace, "paging", *options, core=core) as mount:
        server = faults.Server(mount, mount.path / "vm")
        faults.fill(server, source)
        _wait_until_out(mount)
        random = np.random.default_rng(1)
        cold_pages = int(_COLD_SHARE * data_bytes) // images.BLOCK_BYTES
        before = _fetched(mount)
        for _ in range(rounds):
            pages = random.permutation(cold_pages)[:_FAULTS].astype(np.uint32)
            faulted.append(float(np.percentile(faults.fault(bench, server, pages, core), 50)) / 1e3)
            for times, reader in zip(read, readers, strict=True):
                times.append(reader(random))
        share = (_fetched(mount) - before) / (rounds * _FAULTS)
    source.unlink()
    if share < 0.9:
        raise BenchError(f"only {share:.0%} of the faults were on blocks in the tier")
    return faulted, read, f"{share:.0%} of them were one"


def _fetched(mount: StoreMount) -> int:
    """Reads for which the tier was asked so far."""
    return sum(mount.status()["total"]["tier_latency"]["counts"])


def _wait_until_out(mount: StoreMount) -> None:
    """The pager may still be at it."""
    deadline, out_bytes = time.monotonic() + _OUT_S, -1
    while (now_bytes := mount.status()["total"]["tier"]["out_bytes"]) != out_bytes:
        if time.monotonic() > deadline:
            raise BenchError("paging out does not end")
        out_bytes = now_bytes
        time.sleep(0.5)


def _read_us(path: Path, random: np.random.Generator, flags: int) -> float:
    """p50 of a read of a page at random, of those that the file has data for."""
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        start = os.lseek(fd, 64 << 20, os.SEEK_DATA)
        pages = (os.fstat(fd).st_size - start) // mmap.PAGESIZE
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        times = []
        with mmap.mmap(-1, mmap.PAGESIZE) as buffer:
            for page in random.integers(0, pages, _FAULTS).tolist():
                began = time.perf_counter_ns()
                os.preadv(fd, [buffer], start + page * mmap.PAGESIZE)
                times.append(time.perf_counter_ns() - began)
        return float(np.percentile(times, 50)) / 1e3
    finally:
        os.close(fd)


def _get_range_us(port: int, random: np.random.Generator) -> float:
    """p50 of asking for 2 KiB of a piece, one after another, as quickly as Python can."""
    with machine.pinned(machine.cores()[0]), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"SCAN 0 MATCH *:piece:* COUNT 1000\r\n")
        keys = [word for word in connection.recv(1 << 20).split(b"\r\n") if b":piece:" in word]
        times = []
        for offset in random.integers(0, 900 << 10, _FAULTS).tolist():
            request = b"GETRANGE %s %d %d\r\n" % (keys[offset % len(keys)], offset, offset + 2047)
            began = time.perf_counter_ns()
            connection.sendall(request)
            answer = connection.recv(1 << 16)
            while len(answer) < 2048:
                answer += connection.recv(1 << 16)
            times.append(time.perf_counter_ns() - began)
    return float(np.percentile(times, 50)) / 1e3
