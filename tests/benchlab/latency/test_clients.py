"""clients and the client's `faults` and `load`: every page once, however many threads; a writer that ends when told."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from benchlab import machine, mounts, processes, programs
from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.latency import clients

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

CLIENT_S = 60.0


@dataclass
class OnTmpfs:
    """A file that no server is behind."""

    path: Path
    abort: processes.Abort = processes.nothing_to_abort


@pytest.fixture
def file(source: Path) -> OnTmpfs:
    return OnTmpfs(source)


@pytest.fixture
def pages(bench: Bench, source: Path) -> Path:
    listed = bench.workspace.states / "pages"
    listed.write_bytes(np.arange(source.stat().st_size // 4096, dtype=np.uint32).tobytes())
    return listed


@pytest.mark.parametrize("threads", [1, 3, clients.THREADS])
def test_each_page_is_touched_by_one_thread(file: OnTmpfs, pages: Path, threads: int) -> None:
    command: list[str | Path] = [programs.client(), "faults", file.path, pages, str(threads)]
    done = processes.run_json(command, file.abort, CLIENT_S)
    assert done["faults"] == pages.stat().st_size // 4 and done["seconds"] > 0
    assert clients.faults_per_s(file, pages, threads, machine.cores()) > 0


@pytest.mark.parametrize("threads", [0, 65])
def test_threads_that_cannot_be(file: OnTmpfs, pages: Path, threads: int) -> None:
    with pytest.raises(BenchError, match="1 to 64 threads"):
        clients.faults_per_s(file, pages, threads, machine.cores())


def test_figures_are_ratios_round_by_round() -> None:
    ratio, several, one = clients.figures([10.0, 20.0, 10.0], [16.0, 30.0, 20.0])
    assert (ratio.value, ratio.low, ratio.high, ratio.verdict) == (1.6, 1.5, 2.0, "met")
    assert (several.value, one.value, several.unit) == (20.0, 10.0, "/s")


def test_the_writer_says_when_it_has_begun_and_what_it_wrote_until_it_was_told_to_end(
    bench: Bench, source: Path
) -> None:
    target = bench.workspace.states / "target"
    command: list[str | Path] = [programs.client(), "load", target, source, "600"]
    with processes.Process(command, processes.nothing_to_abort) as process:
        assert process.line(CLIENT_S) == "begun"
        assert target.stat().st_size == source.stat().st_size
        done = json.loads(process.stop(CLIENT_S))
    assert done["seconds"] < 600 and done["bytes"] % source.stat().st_size % (1 << 20) == 0


def test_the_writer_ends_by_itself(bench: Bench, source: Path) -> None:
    command: list[str | Path] = [programs.client(), "load", bench.workspace.states / "target", source, "0.05"]
    begun, done = processes.run(command, processes.nothing_to_abort, CLIENT_S).splitlines()
    assert begun == b"begun"
    assert json.loads(done)["bytes"] > 0 and json.loads(done)["bytes"] % source.stat().st_size == 0


def test_a_process_that_ends_without_a_line(bench: Bench) -> None:
    with processes.Process(["true"], processes.nothing_to_abort) as process, pytest.raises(BenchError, match="ended"):
        process.line(CLIENT_S)
    failing = processes.Process(["sh", "-c", "echo because >&2; exit 3"], processes.nothing_to_abort)
    with failing as process, pytest.raises(BenchError, match="because"):
        process.line(CLIENT_S)


def test_a_process_that_says_nothing_is_ended() -> None:
    with processes.Process(["sleep", "600"], processes.nothing_to_abort) as process:
        with pytest.raises(BenchError, match="said nothing within 0 s"):
            process.line(0.1)
        assert not process.running


@pytest.mark.skipif(os.geteuid() != 0, reason="others may not take it anyway")
def test_ordinary_priority_takes_the_right_to_another() -> None:
    program = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
    processes.run(["python3", "-c", program], processes.nothing_to_abort, CLIENT_S)
    with pytest.raises(BenchError, match="PermissionError"):
        processes.run([*mounts.ORDINARY, "python3", "-c", program], processes.nothing_to_abort, CLIENT_S)
