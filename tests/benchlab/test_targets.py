"""Figures that are made of what was measured: which line has which target, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from benchlab.cost import growth
from benchlab.figures import Figure
from benchlab.latency import busy
from benchlab.latency.busy import Case, Rounds
from benchlab.peers import fio, fiojobs, peers

FREE, ORDINARY, WITH_FAULTS = busy.CASES
RATE = "writer's rate / zram's rewriting a file"


def named(figures: Iterable[Figure], begin: str) -> Figure:
    """The only one whose name begins so."""
    (found,) = [figure for figure in figures if figure.name.startswith(begin)]
    return found


def times(p99_ms: float) -> busy.Milliseconds:
    """Of 1000 faults, of which 20 took so long."""
    return np.array([0.01] * 980 + [p99_ms] * 20)


def rounds(*beside_ms: float, rates: list[float], zram: list[float]) -> Rounds:
    """Beside the writer, against 0.1 ms without it."""
    return Rounds([times(0.1) for _ in beside_ms], [times(p99_ms) for p99_ms in beside_ms], rates, zram)


@pytest.mark.parametrize(
    ("case", "p99_ms", "ratio", "milliseconds"),
    [
        (FREE, 0.2, "met", ""),
        (FREE, 0.21, "short", ""),
        (ORDINARY, 0.59, "met", "met"),
        (ORDINARY, 1.6, "short", "short"),
        (WITH_FAULTS, 0.21, "short", ""),
    ],
)
def test_faults_beside_a_writer(case: Case, p99_ms: float, ratio: str, milliseconds: str) -> None:
    figures = busy.case_figures(case, rounds(9.0, p99_ms, 0.11, rates=[1.0] * 3, zram=[]))
    found = named(figures, "fault p99, writer / none")
    assert found.value == pytest.approx(10 * p99_ms) and found.high == pytest.approx(90)
    assert (found.verdict, named(figures, "fault p99, daemon").verdict) == (ratio, milliseconds)
    assert named(figures, "longest fault").value == 9.0
    assert not [figure for figure in figures if figure.name.startswith(RATE)], "zram could not be had"


def test_the_writer_s_rate_is_compared_round_by_round() -> None:
    measured = rounds(0.1, 0.1, 0.1, rates=[95.0, 300.0, 400.0], zram=[100.0, 300.0, 500.0])
    found = named(busy.case_figures(FREE, measured), RATE)
    assert (found.value, found.low, found.high, found.verdict) == (0.95, 0.8, 1.0, "met")
    measured.mb_per_s[0] = 94.0
    assert named(busy.case_figures(FREE, measured), RATE).verdict == "short"
    assert named(busy.case_figures(ORDINARY, measured), RATE).verdict == ""


def row(peer: str, mb_per_s: float, job: str = "psync-randwrite-4k") -> fiojobs.Row:
    return fiojobs.Row(peer, job, "psync", "random", "write", 4096, mb_per_s, 1.0, 1.0, 1.0)


def test_jobs_of_fio_are_compared_repetition_by_repetition() -> None:
    rows = [row(peers.LANE, rate) for rate in (10.0, 50.0, 60.0)] + [row(peers.ZRAM, 100.0) for _ in range(3)]
    rows += [row(peers.NBDFUSE, 10.0)]  # it failed then
    (found,) = fio.job_figures(rows, {peers.NBDFUSE})
    assert (found.name, found.value, found.verdict) == ("psync-randwrite-4k, MB/s, lane / zram lz4", 0.5, "met")
    (found,) = fio.job_figures([row(peers.LANE, 9.0), row(peers.ZRAM, 20.0)], set())
    assert found.verdict == "short"
    (found,) = fio.job_figures([row(peers.LANE, 9.0), row(peers.NBDFUSE, 20.0)], set())
    assert found.verdict == "", "for information"


def test_ingest_has_the_targets_of_the_peers() -> None:
    rates = {peers.LANE: [120.0], peers.NO_PATCH: [130.0], peers.ZRAM: [100.0], peers.NBDFUSE: [61.0]}
    figures = fio.ingest_figures(rates)
    assert named(figures, "ingest, lane / zram").verdict == "met"
    assert named(figures, "ingest, lane / nbdfuse").verdict == "short"


@pytest.mark.parametrize(("seconds", "verdict"), [(2.0, "met"), (2.1, "short")])
def test_growth_has_a_target_for_the_restart_of_the_largest_store(seconds: float, verdict: str) -> None:
    sizes = (growth.FIRST_BYTES, growth.COMPARED_FROM_BYTES, growth.LAST_BYTES)
    points = [
        growth.Point(size, size // 3, 100.0, 10.0, 20.0, 1.0, start_s)
        for size, start_s in zip(sizes, (1, 1, seconds), strict=True)
    ]
    found = named(growth.figures(points), "kill -9")
    assert (found.name, found.value, found.verdict) == (
        "kill -9 to the next answer, 32768 MiB logical",
        seconds,
        verdict,
    )
