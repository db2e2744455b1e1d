"""The plots: one function for each, from what the groups keep for it (`Bench.kept`), and nothing else.

Colours belong to systems and stay the same in all plots. Nothing here measures, and nothing decides what is good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import matplotlib

matplotlib.use("agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure as Plot
from matplotlib.ticker import FuncFormatter

OURS: Final = "#0b6e99"
OTHER: Final = "#9aa5b1"
DARK: Final = "#1f2933"
TARGET: Final = "#c0392b"

_STYLE: Final[dict[Any, Any]] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": OTHER,
    "axes.labelcolor": DARK,
    "axes.titleweight": "bold",
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "grid.color": "#e4e7eb",
    "legend.frameon": False,
    "svg.hashsalt": "blockstore",
}

Draw = Callable[[Any], Plot]


def draw(kept: Mapping[str, Any]) -> dict[str, Plot]:
    """All plots that these data are enough for, by name."""
    with matplotlib.rc_context(_STYLE):
        return {name: function(kept[group]) for name, (group, function) in PLOTS.items() if kept.get(group)}


def forget() -> None:
    """Free what was drawn."""
    pyplot.close("all")


def mechanisms(data: Sequence[Mapping[str, Any]]) -> Plot:
    """Microseconds of each mechanism, the paper's beside them; logarithmic."""
    plot, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    names = [str(each["name"]) for each in data]
    places = np.arange(len(data))
    for shift, key, colour, label in ((-0.2, "here_us", OURS, "here"), (0.2, "paper_us", OTHER, "the paper, 2008")):
        bars = axes.barh(places + shift, [each[key] for each in data], 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(1, 1000)
    axes.set_xlabel("microseconds a block")
    axes.set_title("What each mechanism costs")
    axes.legend(loc="lower right")
    return plot


def slowdown(data: Mapping[str, Mapping[str, Sequence[float]]]) -> Plot:
    """Each pair's ratio, and the median, by workload."""
    plot, axes = pyplot.subplots(figsize=(7, 0.5 * len(data) + 1.3), layout="constrained")
    for place, (name, times) in enumerate(data.items()):
        ratios = np.array(times["store_s"]) / np.array(times["plain_s"])
        axes.scatter(ratios, np.full(len(ratios), place), s=16, color=OTHER)
        axes.scatter([np.median(ratios)], [place], s=60, color=OURS, marker="D")
        axes.annotate(f"{np.median(ratios):.2f}", (np.median(ratios), place), (0, 7), textcoords="offset points",
                      ha="center", fontsize=8)  # fmt: skip
        axes.text(0.01, place, name, transform=axes.get_yaxis_transform(), va="center")
    axes.axvline(1, color=DARK, linewidth=0.8)
    axes.axvline(1.07, color=TARGET, linewidth=0.8, linestyle="--")
    axes.set_yticks([])
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.85) - 0.25 * (high - low), max(high, 1.15))
    axes.set_ylim(len(data) - 0.4, -0.6)
    axes.set_xlabel("time on the store / on plain memory; dashed: the promise")
    axes.set_title("Slowdown in the guest, resident auto")
    return plot


def growth(data: Sequence[Mapping[str, float]]) -> Plot:
    """Four panels over the logical size."""
    panels = (
        ("ingest_mb_per_s", "ingest, MB/s"),
        ("fault_p50_us", "fault p50 and p99, us"),
        ("tables_percent", "tables, % of memory that holds data"),
        ("start_s", "kill -9 to the next answer, s"),
    )
    plot, grid = pyplot.subplots(2, 2, figsize=(7, 4.4), layout="constrained", sharex=True)
    sizes = [each["logical_bytes"] / 2**30 for each in data]
    for axes, (key, title) in zip(grid.flat, panels, strict=True):
        axes.plot(sizes, [each[key] for each in data], color=OURS, marker="o", markersize=4)
        if key == "fault_p50_us":
            axes.plot(sizes, [each["fault_p99_us"] for each in data], color=OTHER, marker="o", markersize=4)
        axes.set_title(title)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
        axes.set_ylim(0, None)
        axes.grid(axis="y")
    for axes in grid[1]:
        axes.set_xlabel("logical memory, GiB")
    return plot


PLOTS: Final[dict[str, tuple[str, Draw]]] = {
    "mechanisms": ("mechanisms", mechanisms),
    "slowdown": ("slowdown", slowdown),
    "growth": ("growth", growth),
}
"""By name: the group whose data it needs, and what draws it. A further plot is one function and one line."""
