"""The charts of a mount's history: which there are, and what each shows. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import tzinfo
from itertools import pairwise
from statistics import median
from typing import Final

from blockstore.cli.views.charts import PERCENT, RATES, SIZES, Chart, Series, draw
from blockstore.cli.views.natural_order import natural
from blockstore.store.accounting.classes import CLASSES
from blockstore.store.accounting.report import saved
from blockstore.vm.observe.history import Figures, Sample

MINIMUM_SAMPLES: Final = 2

LOSS_PERCENT: Final = -100.0
"""What is saved is shown from here on at least."""

GAP_INTERVALS: Final = 3
"""Samples that are farther apart are not joined by a line. One may be late, or lost to a daemon that was replaced."""

NAMED_VMS: Final = 8
"""As many as there are colours that can be told apart; all others are one area."""


def ending_with(samples: Sequence[Sample], now: Sample) -> list[Sample]:
    """The charts end with what the page says of now. A sample just before goes, because there is no rate over an
    instant; but not one of another daemon, for which a mark is drawn."""
    latest_s = now.time_s - samples[-1].interval_s / 2
    return [*(sample for sample in samples if sample.time_s <= latest_s or sample.restarts != now.restarts), now]


def charts(samples: Sequence[Sample], zone: tzinfo | None) -> Iterator[str]:
    """Each as a figure; there must be two samples."""
    times_s = [sample.time_s for sample in samples]
    marks_s = [after.time_s for before, after in pairwise(samples) if after.restarts != before.restarts]
    totals = [sample.total for sample in samples]
    touched = Series("touched", "touched", [total.touched for total in totals])
    for chart in (
        Chart(
            "Footprint, and the memory it stands for",
            SIZES,
            times_s,
            [*_parts(totals, _COSTS.items()), *_snapshots(samples)],
            [touched],
            wide=True,
        ),
        Chart("Memory by mechanism", SIZES, times_s, _parts(totals, ((name, name) for name in CLASSES))),
        _saved(times_s, totals),
        Chart("Resident, by VM", SIZES, times_s, _resident(samples)),
        Chart("Refaults per second", RATES, times_s, lines=[Series("refaults", "refaults", _refault_rates(samples))]),
    ):
        yield draw(chart._replace(marks_s=marks_s, gaps=gaps(samples)), zone)


def gaps(samples: Sequence[Sample]) -> list[int]:
    """The places of samples before which others are missing. How far apart they are is told by the longest interval
    that one was taken with; where each took long they are farther apart than that, and then most of them are."""
    distances_s = [after.time_s - before.time_s for before, after in pairwise(samples)]
    usual_s = max(median(distances_s), *(sample.interval_s for sample in samples))
    return [place for place, distance_s in enumerate(distances_s, 1) if distance_s > GAP_INTERVALS * usual_s]


_COSTS: Final = {"pool": "pool", "tables": "tables", "daemon_memory": "daemon", "resident": "resident"}
"""Key and heading, from bottom to top."""


def _parts(totals: Sequence[Figures], keys: Iterable[tuple[str, str]]) -> list[Series]:
    return [Series(heading, key, [getattr(total, key) for total in totals]) for key, heading in keys]


def _snapshots(samples: Sequence[Sample]) -> list[Series]:
    """What only snapshots need, on top of the footprint and no part of it; nothing where there never were any."""
    if not any(sample.snapshots.files for sample in samples):
        return []
    return [Series("snapshots, beside it", "snapshots", [sample.snapshots.footprint for sample in samples])]


def _saved(times_s: Sequence[float], totals: Sequence[Figures]) -> Chart:
    """A mount with next to nothing in it costs thousands of per cent: where that is not the rule, it is left out."""
    shares = [100 * saved(each.touched, each.footprint) if each.touched else None for each in totals]
    known = [share for share in shares if share is not None]
    usual = min(sorted(known)[len(known) // 4], known[-1]) if known else 0.0
    floor = min(math.floor(1.5 * usual / 100) * 100.0, LOSS_PERCENT)
    title = "Saved"
    if min(known, default=0.0) < floor:
        title += f" (less than {floor:.0f} % is not shown)".replace("-", "\N{MINUS SIGN}")
        shares = [None if share is not None and share < floor else share for share in shares]
    return Chart(title, PERCENT, times_s, lines=[Series("saved", "saved", shares)])


def _resident(samples: Sequence[Sample]) -> list[Series]:
    """The VMs that had the most all in all, the largest at the bottom, and all others together on top."""
    sizes: dict[str, int] = {}
    for sample in samples:
        for name, figures in sample.volumes.items():
            sizes[name] = sizes.get(name, 0) + figures.resident
    named = sorted(sizes, key=lambda name: (-sizes[name], natural(name)))[:NAMED_VMS]
    found = []
    for place, name in enumerate(named):
        values = [sample.volumes[name].resident if name in sample.volumes else 0 for sample in samples]
        found.append(Series(name, f"vm{place}", values))
    if len(sizes) > NAMED_VMS:
        sums = [sum(series.values[place] or 0 for series in found) for place in range(len(samples))]
        others = [max(sample.total.resident - known, 0) for sample, known in zip(samples, sums, strict=True)]
        found.append(Series("all others", "others", others))
    return found


def _refault_rates(samples: Sequence[Sample]) -> list[float | None]:
    """Since the sample before, and at least that many: the counters begin again with a new daemon, and go with their
    VM. None for the first."""
    rates: list[float | None] = [None]
    for before, after in pairwise(samples):
        rates.append(_refaults(before, after) / max(after.time_s - before.time_s, 1e-3))
    return rates


def _refaults(before: Sample, after: Sample) -> int:
    if after.restarts != before.restarts:
        return after.total.refaults
    of_those_that_stayed = sum(
        max(figures.refaults - before.volumes[name].refaults, 0)
        for name, figures in after.volumes.items()
        if name in before.volumes
    )
    return max(after.total.refaults - before.total.refaults, of_those_that_stayed)
