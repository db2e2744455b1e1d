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
    "svg.fonttype": "none",  # text stays text: smaller, and it can be searched
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
    low, high = min(axes.get_xlim()[0], 0.85), max(axes.get_xlim()[1], 1.15)
    axes.set_xlim(low - 0.3 * (high - low), high)
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
        axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
        axes.grid(axis="y")
    for axes in grid[1]:
        axes.set_xlabel("logical memory, GiB")
    return plot


def faults(data: Mapping[str, Any]) -> Plot:
    """p50 and p99 of a fault on each server of the file."""
    found = sorted(data["faults"], key=lambda each: float(np.median(each["p50_us"])))
    plot, axes = pyplot.subplots(figsize=(7, 0.42 * len(found) + 1.1), layout="constrained")
    for place, each in enumerate(found):
        colour = _colour_of_peer(each["peer"])
        p50, p99 = (float(np.median(each[key])) for key in ("p50_us", "p99_us"))
        axes.plot([p50, p99], [place, place], color=colour, linewidth=1.5)
        axes.scatter([p50], [place], color=colour, s=45, zorder=3)
        axes.scatter([p99], [place], color="white", edgecolors=colour, s=30, zorder=3)
        axes.annotate(f"{p50:.1f}", (p50, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(found)), [each["peer"] for each in found])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("microseconds: p50 (full), p99 (open)")
    axes.set_title("A fault on a page that is not resident")
    return plot


def throughput(data: Mapping[str, Any]) -> Plot:
    """MB/s of each fio job on each peer, and of ingest; logarithmic."""
    jobs: dict[str, dict[str, float]] = {}
    for row in data["jobs"]:
        jobs.setdefault(row["job"], {})[row["peer"]] = row["mb_per_s"]
    jobs["write by mmap and msync"] = {each["peer"]: float(np.median(each["mb_per_s"])) for each in data["ingest"]}
    plot, axes = pyplot.subplots(figsize=(7, 0.34 * len(jobs) + 1.4), layout="constrained")
    labelled = set[str]()
    for place, rates in enumerate(jobs.values()):
        for peer, rate in rates.items():
            is_ours = peer == LANE
            axes.scatter(
                [rate],
                [place],
                color=_colour_of_peer(peer),
                marker="D" if is_ours else _MARKERS[_known_peer(peer)],
                s=48 if is_ours else 26,
                zorder=3 if is_ours else 2,
                label=peer if peer not in labelled else None,
            )
            labelled.add(peer)
    axes.set_yticks(range(len(jobs)), list(jobs))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="both")
    axes.set_xlabel("MB/s")
    axes.set_title("The same work on each")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plot


def saved_over_time(data: Mapping[str, Any]) -> Plot:
    """A panel for each set, a line for each system."""
    plot, grid = pyplot.subplots(
        1, len(data), figsize=(3.2 * len(data) + 0.8, 3.2), layout="constrained", sharey=True, squeeze=False
    )
    for axes, (name, found) in zip(grid[0], data.items(), strict=True):
        for system, results in found["systems"].items():
            series = results["series"]
            axes.plot(
                [each["seconds"] for each in series],
                [100 * each["saved"] for each in series],
                color=SYSTEMS[system],
                linewidth=2.2 if system == "store" else 1.2,
                label=system,
            )
        axes.set_title(name)
        axes.set_xlabel("seconds since the guests went on")
        axes.set_ylim(-20, 100)
        axes.grid(axis="y")
    grid[0][0].set_ylabel("saved, % of touched memory")
    grid[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plot


def saved_by_mechanism(data: Mapping[str, Any]) -> Plot:
    """What each system pays at the end, in parts, in per cent of the memory that was touched."""
    plot, grid = pyplot.subplots(
        len(data), 1, figsize=(7.4, 1.9 * len(data) + 0.8), layout="constrained", sharex=True, squeeze=False
    )
    parts = list(dict.fromkeys(_part_of(key) for each in data.values() for key in _costs(each)))
    parts.sort(key=list(PARTS).index)
    for axes, (name, found) in zip(grid[:, 0], data.items(), strict=True):
        for place, results in enumerate(found["systems"].values()):
            touched, left = results["series"][-1]["touched"], 0.0
            sums = dict.fromkeys(parts, 0.0)
            for key, size in results["stack"]["cost"].items():
                sums[_part_of(key)] += 100 * size / touched
            for part, share in sums.items():
                axes.barh(place, share, 0.7, left=left, color=PARTS[part], label=part if not place else None)
                left += share
            axes.text(left + 1, place, f"{100 - left:.0f} % saved", va="center", fontsize=8)
        axes.set_yticks(range(len(found["systems"])), list(found["systems"]))
        axes.invert_yaxis()
        axes.set_xlim(0, 125)
        axes.set_title(name)
    grid[-1, 0].set_xlabel("cost, % of touched memory")
    plot.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return plot


def _costs(found: Mapping[str, Any]) -> list[str]:
    return [key for results in found["systems"].values() for key in results["stack"]["cost"]]


def _part_of(key: str) -> str:
    """The name under which a part of the cost is drawn."""
    return _PART_NAMES.get(key, "tables")


def _known_peer(peer: str) -> str:
    return next((name for name in _MARKERS if peer.startswith(name)), "tmpfs")


def _colour_of_peer(peer: str) -> str:
    return OURS if peer == LANE else _PEERS.get(_known_peer(peer), OTHER)


LANE: Final = "lane"

SYSTEMS: Final = {
    "store": OURS,
    "no patches": "#7fb7cf",
    "ksm": "#d98c3f",
    "zram": "#7a9e5f",
    "ksm+zram": "#8a5a9e",
    "nothing": OTHER,
}

_MARKERS: Final = {"lane": "D", "zram": "s", "nbdfuse": "v", "qsd": "^", "qemu": "^", "floor": "_",
                   "tmpfs": "o"}  # fmt: skip
_PEERS: Final = {"lane": "#57c4e5", "zram": "#7a9e5f", "nbdfuse": "#d98c3f", "qsd": "#8a5a9e",
                 "qemu": "#8a5a9e"}  # fmt: skip

PARTS: Final = {
    "resident": "#33658a",
    "shared": "#0b6e99",
    "patched": "#4ba3c7",
    "compressed": "#8cc7de",
    "dense": "#2a8a8a",
    "raw": "#c5e3ef",
    "paged": "#8c96c6",
    "zram": "#7a9e5f",
    "tables": "#d9a441",
    "processes": "#b86b5e",
}
"""Of what is paid, from left to right."""

_PART_NAMES: Final = {
    "resident": "resident",
    "stored_shared": "shared",
    "stored_patched": "patched",
    "stored_compressed": "compressed",
    "stored_dense": "dense",
    "stored_references": "patched",
    "stored_raw": "raw",
    "pool_rest": "raw",
    "zram": "zram",
    "processes": "processes",
}

PLOTS: Final[dict[str, tuple[str, Draw]]] = {
    "saved-over-time": ("saved", saved_over_time),
    "saved-by-mechanism": ("saved", saved_by_mechanism),
    "mechanisms": ("mechanisms", mechanisms),
    "faults": ("fio", faults),
    "throughput": ("fio", throughput),
    "slowdown": ("slowdown", slowdown),
    "growth": ("growth", growth),
}
"""By name: the group whose data it needs, and what draws it. A further plot is one function and one line."""
