"""What `top` makes of observations: rates, trends, order, sizes in five letters, and what fits on a screen. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from blockstore.cli.types.sizes import compact_size
from blockstore.cli.views import top_model
from blockstore.cli.views.top_model import BARS, History, Observation, sparkline
from blockstore.cli.views.top_screen import COLUMNS, LEAST_TREND, head_of, headings_of, lay_out, line_of
from blockstore.daemon.host.mounts import Mount
from blockstore.daemon.lane.latency import BOUNDS_US
from tests.cli.words import CLASSES

SIZES = (
    "logical",
    "touched",
    "resident",
    "footprint",
    "stored",
    *CLASSES,
)


Figures = dict[str, Any]


def observed(
    taken_s: float,
    named: Mapping[str, Figures] | None = None,
    *,
    pid: int = 1,
    counts: Sequence[int] = (),
    count: int = 0,
    **volumes: Figures,
) -> Observation:
    """An observation; a volume's figures are 0 but for those that are given."""
    nothing: dict[str, Any] = {**dict.fromkeys(SIZES, 0), "refaults": 0, "saved": 0.0, "controller": None}
    each = {name: {**nothing, **figures} for name, figures in {**(named or {}), **volumes}.items()}
    total = {key: sum(figures[key] for figures in each.values()) for key in (*SIZES, "refaults")}
    latency = {"counts": [*counts, *[0] * (len(BOUNDS_US) + 1 - len(counts))]}
    more = {
        "saved": 0.0,
        "daemon_pid": pid,
        "fault_latency": latency,
        "restarts": 0,
        "pool_limit": 1 << 29,
        "unseen": None,
    }
    answer = {"pool_used": 1, "pool_room": 99, "stalled": 0, "refused_writes": 0, "corrupt_reads": 0, "lost_blocks": 0}
    snapshots = {"count": count, "unique": count << 20}
    report = {"volumes": each, "snapshots": snapshots, "total": {**total, **more, "pool_full": 0.01}}
    return Observation(taken_s, report, answer)


def history(*observations: Observation) -> History:
    """After these."""
    made = History(2.0)
    for observation in observations:
        made.add(observation)
    return made


def rates(made: History) -> dict[str, float | None]:
    """By VM, and the total."""
    return {row.name: row.faults_per_s for row in (*made.rows, made.total)}


def test_rates() -> None:
    first = observed(10, vm1={"refaults": 5}, vm2={"refaults": 7})
    assert rates(history(first)) == {"vm1": None, "vm2": None, "total": None}
    second = observed(14, vm1={"refaults": 25}, vm2={"refaults": 7})
    assert rates(history(first, second)) == {"vm1": 5.0, "vm2": 0.0, "total": 5.0}
    other = observed(18, vm1={"refaults": 26}, vm3={"refaults": 99})
    assert rates(history(first, second, other)) == {"vm1": 0.25, "vm3": None, "total": 0.25}


@pytest.mark.parametrize("after", [0, 3, 10])
def test_a_new_daemon_counts_from_zero(after: int) -> None:
    before = observed(10, pid=1, counts=[9, 9], vm1={"refaults": 5})
    assert rates(history(before, observed(12, pid=2, vm1={"refaults": after})))["vm1"] == 0
    restarted = history(before, observed(12, pid=2, counts=[10, 90], vm1={}))
    assert restarted.latencies == top_model.Latencies(None, None)
    # The file may have been deleted and made anew under the same daemon.
    assert rates(history(before, observed(12, vm1={"refaults": 1})))["vm1"] == 0


def test_latencies_are_of_the_last_interval() -> None:
    before, after = observed(1, counts=[1000, 0, 5]), observed(2, counts=[1000, 98, 5, 1, 1])
    assert history(before, after).latencies == top_model.Latencies(10.0, 50.0)
    slow = observed(2, counts=[1000, 0, 5, *[0] * (len(BOUNDS_US) - 3), 1])
    assert top_model.bound(history(before, slow).latencies.p99_us) == ">10s"
    assert history(before, before).latencies.p50_us is None


def test_sparkline() -> None:
    samples = [(0.0, 0), (1.0, 50), (2.0, 100), (3.0, 1)]
    assert sparkline(samples, 3.0, 1.0, 6) == "  " + BARS[0] + BARS[4] + BARS[7] + BARS[1]
    assert sparkline([(0.0, 7)], 9.0, 1.0, 4) == BARS[7] * 4  # nothing new: as it was
    assert sparkline([(0.0, 0)], 0.0, 1.0, 3) == "  " + BARS[0]
    assert sparkline([(0.0, 9), (0.5, 3), (1.0, 3)], 1.0, 1.0, 2) == BARS[7] * 2  # the newest letter is what is now
    assert sparkline([], 5.0, 1.0, 3) == "   "
    assert sparkline([(0.0, 1)], 5.0, 1.0, 0) == ""


def test_trends_are_kept_for_a_while_and_forgotten_with_the_vm() -> None:
    made = History(2.0)
    for second in range(0, 2000, 2):
        made.add(observed(float(second), {} if second > 1000 else {"gone": {}}, old={"resident": second}))
    assert made.trend("gone", 10) == " " * 10 and made.trend("old", 0) == ""
    trend = made.trend("old", 10)
    assert trend[-1] == BARS[7] and list(trend) == sorted(trend) and " " not in trend
    assert made.trend(None, 10) == trend
    kept = made._resident["old"]
    assert len(kept) <= 100, "the history grows"


def test_a_volume_called_total() -> None:
    made = history(observed(1, total={"resident": 5}, other={"resident": 1}), observed(9, total={}, other={}))
    assert {row.name for row in made.rows} == {"total", "other"} and made.total not in made.rows
    assert made.trend("total", 1) == BARS[0]


def test_order() -> None:
    made = history(
        observed(0, b={}, a={}, c={}), observed(1, b={"refaults": 9, "logical": 2}, a={"logical": 1}, c={"logical": 2})
    )

    def order(key: str, reverse: bool) -> str:
        return "".join(row.name for row in top_model.sort_rows(made.rows, key, reverse=reverse))

    assert order("name", False) == "abc" and order("name", True) == "cba"
    assert order("logical", True) == "bca" and order("logical", False) == "abc"
    assert order("faults", True) == "bac" and order("faults", False) == "acb"
    first = history(observed(0, b={}, a={}))
    assert [row.name for row in top_model.sort_rows(first.rows, "faults", reverse=True)] == ["a", "b"]


def test_controllers() -> None:
    by_word = {"mechanism": "cgroup v2", "wanted": 64 << 20}
    made = history(
        observed(0, a={"controller": by_word}, b={"controller": {"mechanism": None, "wanted": "auto"}}, c={})
    )
    assert [top_model.wanted_of(row) for row in made.rows] == ["64.0M", "auto", "-"]
    assert [top_model.mechanism_of(row) for row in made.rows] == ["cgroup", "-", "-"]


def test_pause() -> None:
    assert top_model.pause_s(2.0, 0.1) == pytest.approx(1.9)
    assert top_model.pause_s(2.0, 3.0) == 3.0


def test_figures_in_few_letters() -> None:
    sizes = {0: "0", 1: "1B", 999: "999B", 1000: "0.98K", 4096: "4.00K", 12 << 20: "12.0M", 1023 << 20: "1023M"}
    sizes |= {1 << 30: "1.00G", 10230: "9.99K", 10239: "10.0K", (1 << 20) - 1: "1.00M", 5 << 40: "5.00T"}
    assert {size: compact_size(size) for size in sizes} == sizes
    per_second = {None: "-", 0.0: "0", 0.25: "0.2", 9.96: "10", 312.4: "312", 12_345.0: "12.3k", 2e6: "2.0M"}
    assert {rate: top_model.compact_rate(rate) for rate in per_second} == per_second
    shares = {0.301: "30.1 %", -2.5: "-250.0 %", -12.3: "-1230 %", -2000.0: "<-99999%", 0.0: "0.0 %"}
    assert {share: top_model.compact_share(share) for share in shares} == shares
    bounds = {None: "-", 20.0: "≤20µs", 5000.0: "≤5ms", 1e7: "≤10s", float("inf"): ">10s"}
    assert {value: top_model.bound(value) for value in bounds} == bounds


@given(st.integers(0, (1 << 63) - 1))
def test_sizes_fit(size_bytes: int) -> None:
    assert len(compact_size(size_bytes)) <= 5


@given(st.floats(0, 1e9) | st.none(), st.floats(-1e9, 1))
def test_rates_and_shares_fit(rate: float | None, share: float) -> None:
    assert len(top_model.compact_rate(rate)) <= 7 and len(top_model.compact_share(share)) <= 8


@given(st.text(alphabet="abc漢字…é", max_size=40), st.integers(1, 30))
def test_shortened_names_fill_their_cells(name: str, cells: int) -> None:
    short = top_model.shorten(name, cells)
    assert cell_len(short) == cells
    assert short.rstrip() == name if cell_len(name) <= cells else "…" in short


@given(st.integers(1, 300), st.integers(1, 60), st.sampled_from([1, 2]))
def test_lines_fit_and_numbers_are_whole(width: int, longest: int, page: int) -> None:
    big: Figures = {**dict.fromkeys(SIZES, 1023 << 30), "saved": -9.876, "refaults": 10**7}
    big["controller"] = {"wanted": 1023 << 20, "mechanism": "cgroup v2"}
    name = "n" * longest
    made = history(observed(0, {name: {}}), observed(1, {name: big}))
    layout = lay_out(width, longest, page)
    line = line_of(made.rows[0], layout, made.trend(name, layout.trend)).plain
    headings = headings_of(layout, "resident", reverse=True).plain
    assert cell_len(headings) <= cell_len(line) + 1
    if width >= 30:
        assert cell_len(line) <= width and cell_len(headings) <= width
        values = " ".join(column.value(made.rows[0]) for column in layout.columns)
        assert values in " ".join(line.split()) and column_count(width) <= len(layout.columns)


def column_count(width: int) -> int:
    """So many at least."""
    return 2 if width < 80 else 7


def test_what_fits() -> None:
    for page, words in ((1, {"memory", "resident", "wanted", "by", "faults/s"}), (2, {"zero", "dense", "stored"})):
        layout = lay_out(80, 40, page)
        shown = {column.heading for column in layout.columns}
        assert shown >= words | {"touched", "saved"} and layout.has_pages
        assert page == 2 or layout.trend >= LEAST_TREND, "the mechanisms leave no room for one"
    wide = lay_out(160, 40, 1)
    assert wide.columns == COLUMNS and not wide.has_pages and wide.trend >= LEAST_TREND and wide.name > 12


def test_head_breaks_between_figures() -> None:
    made = history(observed(1, counts=[0], vm1={}), observed(2, counts=[9], vm1={"refaults": 9}))
    mount = Mount(Path("/run/bad\udcff\x1b[31m"), "0:1", Path("/dev/shm/state"))
    for width in (30, 80, 160):
        lines = head_of(mount, 2.0, made, width).plain.splitlines()
        assert all(cell_len(line) <= width for line in lines), lines
        text = "   ".join(lines)
        assert "\x1b" not in text and "\udcff" not in text
        for figure in ("pool 1B of 512M (1%)", "faults/s 9.0", "fault p50 ≤5µs", "VMs 1", "daemon restarts 0"):
            assert figure in text, (figure, lines)


def test_snapshots_are_told_apart_and_are_no_vms() -> None:
    mount = Mount(Path("/mnt"), "0:1", Path("/state"))
    head = head_of(mount, 2.0, history(observed(1, vm1={}, count=5)), 120).plain
    assert "VMs 1   snapshots 5   only they need 5.00M" in head
    assert "snapshots" not in head_of(mount, 2.0, history(observed(1, vm1={})), 120).plain
