"""fiojobs: the job files are what the bench takes them for, and fio's report is read rightly."""

from __future__ import annotations

import configparser
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchlab import processes
from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.peers import fiojobs
from benchlab.peers.peers import TMPFS, Peer

pytestmark = pytest.mark.long

ENGINES = {"mmap", "psync", "libaio"}


def report(job: str = "psync-randread-4k", rw: str = "randread", p50_ns: int = 5000, error: int = 0) -> dict[str, Any]:
    part = {
        "bw_bytes": 50_000_000,
        "iops": 12_207.0,
        "clat_ns": {"percentile": {"50.000000": p50_ns, "99.000000": 90_000}},
    }
    options = {"ioengine": job.partition("-")[0], "rw": rw, "bs": job.rpartition("-")[2]}
    return {"jobname": job, "error": error, "job options": options, rw.removeprefix("rand"): part}


def sections(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(allow_no_value=True, interpolation=None, comment_prefixes=(";",))
    parser.read_string(path.read_text())
    return parser


@pytest.mark.parametrize(("path", "kind"), [(fiojobs.READ, "read"), (fiojobs.WRITE, "write")])
def test_each_engine_does_each_work(path: Path, kind: str) -> None:
    parser = sections(path)
    done = {(parser[name]["ioengine"], parser[name]["rw"], parser[name]["bs"]) for name in fiojobs.job_names(path)}
    assert done == {(engine, rw, bs) for engine in ENGINES for rw, bs in (("rand" + kind, "4k"), (kind, "1m"))}
    for name in fiojobs.job_names(path):
        assert name == "-".join((parser[name]["ioengine"], parser[name]["rw"], parser[name]["bs"]))


@pytest.mark.parametrize("path", [fiojobs.READ, fiojobs.WRITE, fiojobs.VERIFY])
def test_one_job_after_the_other_on_the_file_that_is_named(path: Path) -> None:
    common = sections(path)["global"]
    assert common["filename"] == "${FILE}"
    assert "stonewall" in common


def test_what_is_written_is_written_back_within_the_measure() -> None:
    assert sections(fiojobs.WRITE)["global"]["end_fsync"] == "1"


def test_notes_before_the_json_are_left_out() -> None:
    output = (
        b"note: both iodepth >= 1 and synchronous I/O engine are selected\n" + json.dumps({"jobs": [report()]}).encode()
    )
    assert [job["jobname"] for job in fiojobs.reports(output)] == ["psync-randread-4k"]


@pytest.mark.parametrize("output", [b"", b"fio: no such file\n", b'{"no": "jobs"}', b'{"jobs": ['])
def test_no_report_is_an_error(output: bytes) -> None:
    with pytest.raises(BenchError, match="no report"):
        fiojobs.reports(output)


def test_failed_job_is_an_error() -> None:
    output = json.dumps({"jobs": [report(), report("mmap-read-1m", "read", error=84)]}).encode()
    with pytest.raises(BenchError, match="mmap-read-1m failed with error 84"):
        fiojobs.reports(output)


def test_row() -> None:
    row = fiojobs.row("lane", report())
    assert row == fiojobs.Row("lane", "psync-randread-4k", "psync", "random", "read", 4096, 50.0, 12_207.0, 5.0, 90.0)
    row = fiojobs.row("lane", report("mmap-write-1m", "write"))
    assert (row.engine, row.pattern, row.rw, row.block_bytes) == ("mmap", "sequential", "write", 1 << 20)


def test_medians_by_peer_and_job() -> None:
    rows = [fiojobs.row(peer, report(p50_ns=p50)) for p50 in (9000, 1000, 2000) for peer in ("lane", "tmpfs")]
    rows[1] = replace(rows[1], clat_p50_us=7.0)
    found = fiojobs.medians(rows)
    assert [(row.peer, row.clat_p50_us, row.repetitions) for row in found] == [("lane", 2.0, 3), ("tmpfs", 2.0, 3)]


@pytest.fixture
def setting(bench: Bench, source: Path) -> fiojobs.Setting:
    pattern = bench.workspace.states / "pattern"
    pattern.write_bytes(source.read_bytes()[: fiojobs.PATTERN_BYTES])
    return fiojobs.Setting(source.stat().st_size, 0.1, pattern, core=0)


@pytest.fixture
def on_tmpfs(bench: Bench, source: Path) -> Callable[[], Peer]:
    def make() -> Peer:
        return Peer(TMPFS, source, (), processes.nothing_to_abort, ("true",))

    return make


@pytest.mark.skipif(shutil.which("fio") is None, reason="needs fio")
def test_fio_writes_other_content_in_each_repetition(setting: fiojobs.Setting, on_tmpfs: Callable[[], Peer]) -> None:
    peer = on_tmpfs()
    blocks: list[set[bytes]] = []
    for seed in (1, 2):
        jobs = fiojobs.run(fiojobs.WRITE, peer, setting, seed)
        assert [job["jobname"] for job in jobs] == fiojobs.job_names(fiojobs.WRITE)
        assert all(fiojobs.row(TMPFS, job).mb_per_s > 0 for job in jobs)
        content = peer.path.read_bytes()
        blocks.append({content[at : at + 4096] for at in range(0, len(content), 4096)})
    assert len(blocks[0]) == len(blocks[1]) == setting.size_bytes // 4096
    assert not blocks[0] & blocks[1]
