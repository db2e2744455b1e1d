"""What `top` knows of a mount after some observations: rates, how things went lately, latencies. Pure.

Counters of the daemon (refaults, latencies) begin again at 0 with the next daemon: a difference is never negative, and
there is none between two daemons.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rich.cells import cell_len, set_cell_size

from blockstore.cli.types.sizes import compact_size
from blockstore.cli.views.natural_order import natural
from blockstore.daemon.lane.latency import quantile_us
from blockstore.printable import printable
from blockstore.store.accounting.report import Report

TREND_S: Final = 180.0
"""What a trend shows, if there is an observation for each of its letters; else it shows more."""

TREND_LETTERS: Final = 60
"""The most that a trend has."""

BARS: Final = "▁▂▃▄▅▆▇█"
"""The lowest is 0, and nothing else is."""

TOTAL: Final = "total"


@dataclass(frozen=True)
class Observation:
    """What observe() gave at a moment of time.monotonic()."""

    taken_s: float
    report: Report
    answer: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A VM, or all of them; `faults_per_s` is None as long as there is nothing to compare with."""

    name: str
    shown_name: str
    figures: Mapping[str, Any]
    faults_per_s: float | None


@dataclass(frozen=True)
class Latencies:
    """Upper bounds in microseconds; None without a fault that was timed, infinite beyond the last bound."""

    p50_us: float | None
    p99_us: float | None


class History:
    """Of one mount; fed with one observation after the other. `rows` and all others are of the last one."""

    def __init__(self, interval_s: float) -> None:
        self._letter_s = max(TREND_S / TREND_LETTERS, interval_s)
        self._resident: dict[str | None, deque[tuple[float, int]]] = {}
        self.last: Observation | None = None
        self.rows: list[Row] = []
        self.total = Row(TOTAL, TOTAL, {}, None)
        self.latencies = Latencies(None, None)

    def add(self, now: Observation) -> None:
        """Another observation, later than the last."""
        volumes, total = now.report["volumes"], now.report["total"]
        before = self.last
        self.rows = [
            Row(name, printable(name), figures, _faults_per_s(before, now, name)) for name, figures in volumes.items()
        ]
        self.total = Row(TOTAL, TOTAL, total, _total_rate(before, self.rows))
        self.latencies = _latencies(before, now)
        self._remember(now)
        self.last = now

    def trend(self, name: str | None, letters: int) -> str:
        """How much of the VM was resident lately, the newest at the right; None is all of them."""
        samples = self._resident.get(name)
        if samples is None or self.last is None:
            return " " * letters
        return sparkline(samples, self.last.taken_s, max(self._letter_s, TREND_S / max(letters, 1)), letters)

    def _remember(self, now: Observation) -> None:
        volumes = now.report["volumes"]
        self._resident = {key: kept for key, kept in self._resident.items() if key is None or key in volumes}
        oldest_s = now.taken_s - (TREND_LETTERS + 1) * self._letter_s
        for key, figures in (*volumes.items(), (None, now.report["total"])):
            samples = self._resident.setdefault(key, deque())
            samples.append((now.taken_s, figures["resident"]))
            while len(samples) > 1 and samples[1][0] < oldest_s:  # the last one before is what the first letter shows
                samples.popleft()


def sparkline(samples: Iterable[tuple[float, int]], now_s: float, letter_s: float, letters: int) -> str:
    """A bar for each `letter_s` seconds, as high as the last sample in them, against the largest of all bars; what was
    not observed is as it was before, and empty before the first sample."""
    last = math.floor(now_s / letter_s)  # bars begin at multiples of letter_s, so that they keep their shape
    heights: list[int | None] = [None] * letters
    before: int | None = None
    for taken_s, value in samples:
        place = math.floor(taken_s / letter_s) - last + letters - 1
        if place < 0:
            before = value
        elif place < letters:
            heights[place] = value
    for place, height in enumerate(heights):
        before = heights[place] = before if height is None else height
    top = max((height for height in heights if height is not None), default=0)
    return "".join(_bar(height, top) for height in heights)


def sort_rows(rows: Iterable[Row], key: str, *, reverse: bool) -> list[Row]:
    """By `name`, by `faults` or by a figure; ties by name, whatever the direction."""
    by_name = sorted(rows, key=lambda row: natural(row.name), reverse=reverse and key == "name")
    if key == "name":
        return by_name
    return sorted(by_name, key=lambda row: figure(row, key), reverse=reverse)


def figure(row: Row, key: str) -> float:
    """What a row is sorted by."""
    return float((row.faults_per_s or 0) if key == "faults" else row.figures[key])


def wanted_of(row: Row) -> str:
    """What its controller wants to be resident; - where nobody controls it."""
    controller = row.figures.get("controller")
    wanted = controller["wanted"] if controller else "-"
    return wanted if isinstance(wanted, str) else compact_size(wanted)


def attached_by(row: Row) -> str:
    """Who has its VM attached: run, attach, auto; - where nobody has."""
    controller = row.figures.get("controller")
    return str(controller.get("attached_by", "-")) if controller else "-"


def mechanism_of(row: Row) -> str:
    """By what its controller takes pages away, in a word: cgroup, madvise, or - if it does not yet."""
    controller = row.figures.get("controller")
    return controller["mechanism"].partition(" ")[0] if controller and controller["mechanism"] else "-"


def snapshots_of(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Words and values about the snapshots, which are in no row; none if there are none."""
    if not figures["count"]:
        return []
    return [("snapshots", str(figures["count"])), ("only they need", compact_size(figures["unique"]))]


def pause_s(interval_s: float, took_s: float) -> float:
    """From one observation to the next: never less than it took, so that the daemon has half of its time for VMs."""
    return max(interval_s - took_s, took_s)


def compact_rate(per_second: float | None) -> str:
    """A rate in five letters: -, 0, 0.5, 312, 12.3k, 2.0M."""
    if per_second is None:
        return "-"
    if per_second < 9.95:
        return f"{per_second:.1f}" if per_second else "0"
    if per_second < 9_999.5:
        return f"{per_second:.0f}"
    if per_second < 999_500:
        return f"{per_second / 1e3:.{1 if per_second < 99_950 else 0}f}k"
    return f"{per_second / 1e6:.1f}M"


def compact_share(share: float) -> str:
    """A fraction in per cent, in eight letters."""
    percent = 100 * share
    if percent > -999.95:
        return f"{percent:.1f} %"
    return f"{percent:.0f} %" if percent > -99_999 else "<-99999%"


def bound(microseconds: float | None) -> str:
    """A latency that is an upper bound: ≤20µs, ≤5ms, >10s."""
    if microseconds is None:
        return "-"
    if math.isinf(microseconds):
        return ">10s"
    for factor, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= factor:
            return f"≤{microseconds / factor:g}{unit}"
    return f"≤{microseconds:g}µs"


def shorten(text: str, cells: int) -> str:
    """The text in so many cells of a terminal: what is left out is in the middle, and a … stands for it."""
    if cell_len(text) <= cells:
        return set_cell_size(text, cells)
    tail = (cells - 1) // 2
    return set_cell_size(set_cell_size(text, cells - 1 - tail) + "…" + set_cell_size(text[::-1], tail)[::-1], cells)


def _bar(value: int | None, top: int) -> str:
    if value is None:
        return " "
    return BARS[math.ceil((len(BARS) - 1) * value / top)] if top else BARS[0]


def _faults_per_s(before: Observation | None, now: Observation, name: str) -> float | None:
    if before is None or name not in before.report["volumes"]:
        return None
    if _other_daemon(before, now) or now.taken_s <= before.taken_s:
        return 0.0
    counts: list[int] = [each.report["volumes"][name]["refaults"] for each in (before, now)]
    return max(counts[1] - counts[0], 0) / (now.taken_s - before.taken_s)


def _total_rate(before: Observation | None, rows: Iterable[Row]) -> float | None:
    """The sum of the rows, so that it adds up; a VM that has gone has taken its count with it."""
    return None if before is None else sum(row.faults_per_s or 0.0 for row in rows)


def _latencies(before: Observation | None, now: Observation) -> Latencies:
    """Of the faults between the two."""
    if before is None or _other_daemon(before, now):
        return Latencies(None, None)
    old_counts, new_counts = (each.report["total"]["fault_latency"]["counts"] for each in (before, now))
    difference = [max(new - old, 0) for old, new in zip(old_counts, new_counts, strict=True)]
    return Latencies(quantile_us(difference, 0.50), quantile_us(difference, 0.99))


def _other_daemon(before: Observation, now: Observation) -> bool:
    pids = [each.report["total"]["daemon_pid"] for each in (before, now)]
    return bool(pids[0] != pids[1])
