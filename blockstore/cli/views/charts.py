"""Charts over time as inline SVG, for `blockstore report`. Pure; knows nothing of mounts.

A chart is areas on top of each other and lines before them, at common times. Colours are classes, which the page's
style sheet gives a colour each (report_style.py). Names stand in a legend in HTML, which breaks its lines: in SVG
nothing would keep long ones from overlapping. All text is escaped here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, tzinfo
from html import escape
from itertools import pairwise
from typing import Final, NamedTuple

from blockstore.printable import printable

DAY_S: Final = 86400

TIME_STEPS_S: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(3600 * hours for hours in (1, 2, 3, 6, 12)),
    *(DAY_S * days for days in (1, 2, 7, 14, 28, 91, 182, 364)),
)

LEFT, RIGHT, TOP, BOTTOM = 74, 26, 12, 28
"""Margins of the plot, for the labels of its axes; in units of the view box, pixels at full width."""

HEIGHT: Final = 260
WIDTH: Final = 556
WIDE_WIDTH: Final = 1136

LABEL_WIDTH: Final = 90
"""Of the time axis, between two labels."""

VALUE_TICKS: Final = 5

MAXIMUM_MARKS: Final = 40
"""More lines than that would hide the chart."""


class Series(NamedTuple):
    """One value for each time, None where there is none; `paint` is a class of the style sheet."""

    name: str
    paint: str
    values: Sequence[float | None]


class Unit(NamedTuple):
    """How values are written: `ticks` gives (value, label) up to at least the largest; `kind` is for the hover text."""

    kind: str
    ticks: Callable[[float, float], list[tuple[float, str]]]


class Chart(NamedTuple):
    """`stacked` from bottom to top. `marks` are times at which something happened, `gaps` the places of times before
    which others are missing: nothing is drawn there."""

    title: str
    unit: Unit
    times_s: Sequence[float]
    stacked: Sequence[Series] = ()
    lines: Sequence[Series] = ()
    marks_s: Sequence[float] = ()
    gaps: Sequence[int] = ()
    wide: bool = False


class _Plot(NamedTuple):
    """From times and values to places."""

    width: int
    first_s: float
    last_s: float
    low: float
    high: float

    def x(self, time_s: float) -> float:
        share = (time_s - self.first_s) / max(self.last_s - self.first_s, 1e-3)
        return LEFT + share * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def draw(chart: Chart, zone: tzinfo | None = None) -> str:
    """A <figure>: title, legend, SVG. At least two times."""
    assert len(chart.times_s) >= 2
    tops = _stack(chart.stacked, len(chart.times_s))
    values = [value for top in tops for value in top]
    values += [value for line in chart.lines for value in line.values if value is not None]
    ticks = chart.unit.ticks(min(values, default=0.0), max(values, default=0.0))
    width = WIDE_WIDTH if chart.wide else WIDTH
    plot = _Plot(width, chart.times_s[0], chart.times_s[-1], ticks[0][0], ticks[-1][0])
    parts = [*_value_axis(plot, ticks)]
    bottoms = [[0.0] * len(chart.times_s), *tops]
    for series, bottom, top in zip(chart.stacked, bottoms, tops, strict=False):
        parts.append(f'<path class="area {series.paint}" d="{_areas(plot, chart, bottom, top)}"/>')
    for series in chart.lines:
        parts.append(f'<path class="line {series.paint}" d="{_line(plot, chart, series.values)}"/>')
    parts += _time_axis(plot, zone)
    parts += [_mark(plot, time_s) for time_s in chart.marks_s[-MAXIMUM_MARKS:]]
    return (
        f'<figure class="chart{" wide" if chart.wide else ""}"><figcaption>{escape(chart.title)}</figcaption>'
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(chart.title)}" {_hover(chart, plot)}>'
        f"{''.join(parts)}</svg>{_legend(chart)}</figure>"
    )


# Ticks


def size_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """From 0, in the unit of the largest."""
    power = min(int(math.log2(max(high, 1)) // 10), 6)
    scale = 1024.0**power
    unit = ("B", *(f"{letter}iB" for letter in "KMGTPE"))[power]
    step = _round_step(high / scale, least=1.0 if not power else 0.0)
    return [(tick * scale, f"{tick:g} {unit}" if tick else "0") for tick in _steps(step, high / scale)]


def rate_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """From 0, per second."""
    return [(tick, f"{tick:,.10g} /s" if tick < 1e6 else f"{tick:.3g} /s") for tick in _steps(_round_step(high), high)]


def percent_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Up to 100, from 0 or a round number below it."""
    ticks = [0, 25, 50, 75, 100]
    if low < 0:
        step = int(_round_step(-low, least=50.0))
        ticks = [*range(-step * math.ceil(-low / step), 0, step), 0, *([50] if step == 50 else []), 100]
    return [(float(tick), f"{tick} %".replace("-", "\N{MINUS SIGN}")) for tick in ticks]


SIZES: Final = Unit("bytes", size_ticks)
RATES: Final = Unit("rate", rate_ticks)
PERCENT: Final = Unit("percent", percent_ticks)


def _round_step(high: float, least: float = 0.0) -> float:
    """1, 2 or 5 times a power of ten, so that there are about VALUE_TICKS of it."""
    wanted = max(high / VALUE_TICKS, least, 1e-3)
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted * 0.999)


def _steps(step: float, high: float) -> list[float]:
    """Rounded, because 3 * 0.1 is not 0.3."""
    return [float(f"{number * step:.9g}") for number in range(max(math.ceil(high / step - 1e-9), 1) + 1)]


def time_ticks(first_s: float, last_s: float, most: int, zone: tzinfo | None) -> list[tuple[float, str]]:
    """At round times of the zone; a midnight is written as its date."""
    offset_s = _local(first_s, zone).utcoffset()
    shift_s = offset_s.total_seconds() if offset_s is not None else 0.0
    span_s = last_s - first_s
    step_s = next((step_s for step_s in TIME_STEPS_S if span_s / step_s <= most), math.ceil(span_s / most))
    ticks = []
    number = math.ceil((first_s + shift_s) / step_s)
    while number * step_s - shift_s <= last_s:
        at_s = number * step_s - shift_s
        local = _local(at_s, zone)
        date = f"{local.day} {local:%b}"
        if step_s > 28 * DAY_S:
            date += f" {local:%Y}"
        is_date = step_s >= DAY_S or (number * step_s) % DAY_S == 0
        ticks.append((at_s, date if is_date else f"{local:%H:%M:%S}" if step_s < 60 else f"{local:%H:%M}"))
        number += 1
    return ticks


def _local(time_s: float, zone: tzinfo | None) -> datetime:
    return datetime.fromtimestamp(time_s, zone).astimezone(zone)


# Pieces


def _stack(stacked: Sequence[Series], count: int) -> list[list[float]]:
    """The upper edge of each area."""
    edges, edge = [], [0.0] * count
    for series in stacked:
        edge = [below + (value or 0.0) for below, value in zip(edge, series.values, strict=True)]
        edges.append(edge)
    return edges


def _areas(plot: _Plot, chart: Chart, bottom: Sequence[float], top: Sequence[float]) -> str:
    """One from each gap to the next."""
    ends = [0, *chart.gaps, len(chart.times_s)]
    return "".join(
        _area(plot, chart.times_s[first:end], bottom[first:end], top[first:end]) for first, end in pairwise(ends)
    )


def _area(plot: _Plot, times_s: Sequence[float], bottom: Sequence[float], top: Sequence[float]) -> str:
    there = [f"{plot.x(time_s):.1f} {plot.y(value):.1f}" for time_s, value in zip(times_s, top, strict=True)]
    back = [f"{plot.x(time_s):.1f} {plot.y(value):.1f}" for time_s, value in zip(times_s, bottom, strict=True)]
    return f"M{'L'.join(there + back[::-1])}Z"


def _line(plot: _Plot, chart: Chart, values: Sequence[float | None]) -> str:
    """Interrupted where there is no value, and at gaps. One value alone is a line too, of no length: a dot."""
    runs: list[list[str]] = [[]]
    for place, (time_s, value) in enumerate(zip(chart.times_s, values, strict=True)):
        if value is None or place in chart.gaps:
            runs.append([])
        if value is not None:
            runs[-1].append(f"{plot.x(time_s):.1f} {plot.y(value):.1f}")
    return "".join(f"M{'L'.join(run if len(run) > 1 else run * 2)}" for run in runs if run)


def _value_axis(plot: _Plot, ticks: Sequence[tuple[float, str]]) -> Iterator[str]:
    for value, label in ticks:
        y = plot.y(value)
        kind = "axis" if value == 0 else "grid"
        yield f'<line class="{kind}" x1="{LEFT}" x2="{plot.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="value" x="{LEFT - 8}" y="{y + 4:.1f}">{label}</text>'


def _time_axis(plot: _Plot, zone: tzinfo | None) -> Iterator[str]:
    most = (plot.width - LEFT - RIGHT) // LABEL_WIDTH
    y = HEIGHT - BOTTOM
    for time_s, label in time_ticks(plot.first_s, plot.last_s, most, zone):
        x = plot.x(time_s)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}"/>'
        yield f'<text class="time" x="{x:.1f}" y="{y + 19}">{label}</text>'


def _mark(plot: _Plot, time_s: float) -> str:
    x = plot.x(time_s)
    return f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'


def _legend(chart: Chart) -> str:
    """In the order in which the eye meets them: lines, then areas from top to bottom. One line alone has the title."""
    entries = [(series, "stroke") for series in chart.lines] + [(series, "swatch") for series in chart.stacked[::-1]]
    if len(entries) == len(chart.lines) == 1:
        return ""
    items = "".join(
        f'<li title="{escape(printable(series.name))}"><i class="{shape} {series.paint}"></i>'
        f"<bdi>{escape(printable(series.name))}</bdi></li>"
        for series, shape in entries
    )
    return f'<ul class="legend">{items}</ul>'


def _hover(chart: Chart, plot: _Plot) -> str:
    """What the page's script shows at the pointer, in the order of the legend."""
    series = [*chart.lines, *chart.stacked[::-1]]
    data = {
        "unit": chart.unit.kind,
        "left": LEFT,
        "right": plot.width - RIGHT,
        "width": plot.width,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "names": [printable(each.name) for each in series],
        "paints": [each.paint for each in series],
        "values": [[_short(value) for value in each.values] for each in series],
    }
    return f'data-chart="{escape(json.dumps(data, separators=(",", ":"), ensure_ascii=False))}"'


def _short(value: float | None) -> float | None:
    """Six digits are more than is shown."""
    if value is None:
        return None
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() else rounded
