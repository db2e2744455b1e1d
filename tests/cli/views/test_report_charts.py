"""The page and its charts, without a mount: axes, rates, many VMs, a full history."""

from __future__ import annotations

import re
from datetime import timedelta, timezone
from html.parser import HTMLParser
from itertools import accumulate, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.cli.views.charts import PERCENT, RATES, SIZES, Chart, Series, Unit, draw, time_ticks
from blockstore.cli.views.report_charts import _refault_rates, _saved, charts, ending_with, gaps
from blockstore.cli.views.report_page import Facts, page
from blockstore.vm.observe.history import Figures, Sample, Snapshots
from tests.cli.words import CLASSES

UTC = timezone.utc  # noqa: UP017
NOON_S = 1_700_049_600.0
"""15 November 2023, 12:00 UTC."""


def figures(resident: int = 0, refaults: int = 0, touched: int = 1 << 20) -> Figures:
    return Figures(1 << 30, touched, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, resident, refaults)


def sample(number: int, total: Figures, restarts: int = 0, /, **volumes: Figures) -> Sample:
    return Sample(NOON_S + 5 * number, NOON_S, 5.0, restarts, total, volumes)


@given(st.sampled_from([SIZES, RATES, PERCENT]), st.floats(-1e9, 0, allow_subnormal=False), st.floats(0, 2.0**62))
def test_value_ticks_cover_what_there_is(unit: Unit, low: float, high: float) -> None:
    if unit is PERCENT:
        high = min(high, 100.0)
    ticks = unit.ticks(low if unit is PERCENT else 0.0, high)
    values = [value for value, _ in ticks]
    assert 2 <= len(ticks) <= 9 and values == sorted(values)
    assert values[-1] >= high * 0.999 and (unit is not PERCENT or values[0] <= low)
    assert len({label for _, label in ticks}) == len(ticks) and all(len(label) < 20 for _, label in ticks)


@pytest.mark.parametrize(
    ("unit", "low", "high", "labels"),
    [
        (SIZES, 0, 0, "0, 1 B"),
        (SIZES, 0, 700 << 20, "0, 200 MiB, 400 MiB, 600 MiB, 800 MiB"),
        (SIZES, 0, 1.2 * 2**30, "0, 0.5 GiB, 1 GiB, 1.5 GiB"),
        (RATES, 0, 4321, "0 /s, 1,000 /s, 2,000 /s, 3,000 /s, 4,000 /s, 5,000 /s"),
        (PERCENT, 3, 80, "0 %, 25 %, 50 %, 75 %, 100 %"),
        (PERCENT, -60, 80, "-100 %, -50 %, 0 %, 50 %, 100 %"),
        (PERCENT, -390, 80, "-400 %, -300 %, -200 %, -100 %, 0 %, 100 %"),
    ],
)
def test_value_labels(unit: Unit, low: float, high: float, labels: str) -> None:
    assert ", ".join(label for _, label in unit.ticks(low, high)).replace("\N{MINUS SIGN}", "-") == labels


@given(st.floats(0, 4e9), st.floats(0.1, 3e9), st.integers(3, 12), st.integers(-12, 14))
def test_time_ticks_are_few_and_within(first_s: float, span_s: float, most: int, hours: int) -> None:
    ticks = time_ticks(first_s, first_s + span_s, most, timezone(timedelta(hours=hours)))
    assert len(ticks) <= most + 1
    assert all(first_s - 1e-6 <= time_s <= first_s + span_s for time_s, _ in ticks)
    assert all(before[0] < after[0] for before, after in pairwise(ticks))


@pytest.mark.parametrize(
    ("span_s", "zone", "labels"),
    [
        (20, "UTC", "12:00:00 12:00:05 12:00:10 12:00:15 12:00:20"),
        (1000, "UTC", "12:00 12:05 12:10 12:15"),
        (30_000, "Asia/Kolkata", "18:00 20:00 22:00 16 Nov"),
        (400_000, "America/New_York", "16 Nov 17 Nov 18 Nov 19 Nov"),
    ],
)
def test_time_labels(span_s: float, zone: str, labels: str) -> None:
    assert " ".join(label for _, label in time_ticks(NOON_S, NOON_S + span_s, 5, ZoneInfo(zone))) == labels


def test_refaults_of_daemons_and_of_vms_that_went() -> None:
    samples = [
        sample(0, figures(refaults=100), a=figures(refaults=60), b=figures(refaults=40)),
        sample(1, figures(refaults=150), a=figures(refaults=110), b=figures(refaults=40)),
        sample(2, figures(refaults=120), a=figures(refaults=120)),  # b was deleted
        sample(3, figures(refaults=25), 1, a=figures(refaults=25)),
        sample(4, figures(refaults=30), 1, c=figures(refaults=30)),  # a was renamed
        sample(5, figures(refaults=0), 1),
    ]
    assert _refault_rates(samples) == [None, 10.0, 2.0, 5.0, 1.0, 0.0]


@pytest.mark.parametrize(("after_s", "kept"), [(0.1, 2), (2.4, 2), (2.5, 3), (60, 3)])
def test_the_last_rate_is_over_more_than_an_instant(after_s: float, kept: int) -> None:
    """The curve of refaults fell to zero at its end, because none had come since the sample just before."""
    samples = [sample(number, figures(refaults=1000 * number)) for number in range(3)]
    now = samples[-1]._replace(time_s=samples[-1].time_s + after_s)
    found = ending_with(samples, now)
    assert found == [*samples[:kept], now]
    assert (_refault_rates(found)[-1] == 0) == (kept == 3), "zero only if nothing came for half an interval"


def test_the_last_sample_of_a_daemon_before_stays() -> None:
    samples = [Sample(NOON_S + 5 * n, NOON_S, 5.0, int(n > 0), figures(), {"vm": figures()}) for n in range(2)]
    now = Sample(NOON_S + 6, NOON_S, 5.0, 2, figures(), {"vm": figures()})
    assert ending_with(samples, now) == [*samples, now]


def test_savings_of_an_empty_mount_do_not_flatten_the_chart() -> None:
    totals = [figures(touched=0, resident=1 << 30), figures(touched=4096, resident=1 << 30)]
    totals += [figures(resident=size << 16) for size in (8, 8, 8, 8, 8, 48, 8)]
    chart = _saved([float(number) for number in range(9)], totals)
    assert chart.lines[0].values == [None, None, 50.0, 50.0, 50.0, 50.0, 50.0, None, 50.0]
    assert "less than \N{MINUS SIGN}100 %" in chart.title
    assert _saved([1.0, 2.0], totals[-2:]).lines[0].values == [-200.0, 50.0]
    assert _saved([1.0, 2.0], totals[-2:][::-1]).lines[0].values == [50.0, -200.0]
    assert _saved([1.0], [figures(touched=0)]).lines[0].values == [None]


def test_times_that_stand_still() -> None:
    text = draw(Chart("t", RATES, [NOON_S] * 2, lines=[Series("a", "a", [None, 1.0])]), UTC)
    assert "nan" not in text and "inf" not in text


def test_snapshots_are_drawn_beside_the_footprint_where_there_were_any() -> None:
    samples = [sample(number, figures(resident=1 << 20)) for number in range(2)]
    assert "snapshots" not in "".join(charts(samples, UTC))
    samples.append(sample(2, figures(resident=1 << 20))._replace(snapshots=Snapshots(5, 1 << 20, 1 << 20)))
    assert "".join(charts(samples, UTC)).count("snapshots, beside it") >= 1


def test_what_is_missing_is_a_gap() -> None:
    """A line through an hour without samples said what nobody had measured."""
    times_s = [*range(0, 100, 5), 400, *range(700, 800, 5)]
    samples = [Sample(NOON_S + time_s, NOON_S, 5.0, 0, figures(resident=1 << 20), {}) for time_s in times_s]
    assert gaps(samples) == [20, 21]
    found = list(charts(samples, UTC))
    assert all(path.count("M") == 3 for text in found[:3] for path in paths(text))
    (rates,) = paths(found[4])
    assert rates.count("M") == 3 and rates.count("L") == 18 + 1 + 19, "a value alone is a dot, the first has no rate"


@pytest.mark.parametrize(
    ("distances_s", "interval_s", "found"),
    [
        ([5] * 10, 5, []),
        ([5, 14, 5, 15, 5, 16, 5], 5, [6]),  # one that is late, or was lost
        ([40] * 10, 40, []),  # of a history that was thinned
        ([20] * 5 + [59, 61] + [20] * 5, 5, [7]),  # where each takes long
        ([0.5, 0.5, 14], 5, []),
        ([1000], 5, []),
    ],
)
def test_gaps(distances_s: list[float], interval_s: float, found: list[int]) -> None:
    times_s = [NOON_S, *(NOON_S + time_s for time_s in accumulate(distances_s))]
    assert gaps([Sample(time_s, NOON_S, interval_s, 0, figures(), {}) for time_s in times_s]) == found


def paths(text: str) -> list[str]:
    return re.findall(r'<path class="[^"]*" d="([^"]*)"', text)


def test_vms_of_one_size_are_listed_as_people_count() -> None:
    report = whole_report(12)
    report["volumes"] = {f"vm{number}": each for number, each in enumerate(report["volumes"].values())}
    facts = Facts("/mnt", "host", 1 << 34, "1", NOON_S, [], UTC)
    names = re.findall(r'<tr class="one"><th scope="row"><bdi title="([^"]*)"', page(report, [], facts))
    assert names == [f"vm{number}" for number in range(12)]


class Places(HTMLParser):
    """All coordinates of the charts."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[float] = []
        self.legend = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.legend += tag == "li"
        for key, value in attrs:
            if tag == "path" and key == "d":
                text = (value or "").translate(str.maketrans("MLZ", "   "))
                self.numbers += [float(number) for number in text.split()]


def whole_report(count: int) -> dict[str, Any]:
    keys = (
        "logical",
        "touched",
        *CLASSES,
        "stored",
        "pool",
        "tables",
    )
    one: dict[str, Any] = dict.fromkeys((*keys, "daemon_memory", "resident", "footprint", "refaults"), 4096)
    one |= {
        f"stored_{name}": 4096 for name in ("shared", "patched", "compressed", "dense", "raw", "paged", "references")
    }
    one |= {"saved": 0.0, "controller": None}
    control = {"pid": 7, "wanted": "auto", "mechanism": None, "refault_share": 0.01}
    volumes = {f"{number}" * 80: one | {"controller": control if number == 5 else None} for number in range(count)}
    total = {**one, "mounted_at": NOON_S, "restarts": 1, "pool_full": 0.5, "pool_limit": 1 << 30}
    snapshots = {**one, "count": 5, "unique": 3 << 20, "footprint": 3 << 20}
    return {"total": total, "volumes": volumes, "snapshots": snapshots, "host": {**one, "footprint": 7 << 20}}


@pytest.mark.parametrize("count", [1, 8, 9, 100])
def test_many_vms_and_a_full_history(count: int) -> None:
    volumes = {f"{number}" * 80: figures(resident=number << 20) for number in range(count)}
    total = figures(resident=sum(range(count)) << 20)
    samples = [sample(number, total, **volumes) for number in range(512)]
    found = Places()
    found.feed("".join(charts(samples, UTC)))
    assert min(found.numbers) >= 0 and max(found.numbers) <= 1136
    assert found.legend == 5 + 7 + min(count, 9)  # footprint, mechanisms, VMs
    facts = Facts("/mnt<", "host", 1 << 34, "1", NOON_S + 9000, ["the pool is full; act"], UTC)
    text = page(whole_report(count), samples, facts)
    assert len(text) < 2 << 20
    assert "The pool is full; act.</p>" in text and "mounted 2 hours 30 minutes ago" in text and "/mnt&lt;" in text
    assert text.count('<tr class="one">') == count
    assert "only they need 3.0 MiB" in text and "With that the host pays 7.0 MiB" in text
    assert ("Resident part, controlled" in text) == (count > 5)
