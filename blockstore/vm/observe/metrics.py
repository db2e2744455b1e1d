"""What Prometheus reads of a mount: an observation (observe.py) as metric families. Pure; docs/metrics.md has them all.

Bytes and seconds, counters in `_total`. A metric of a volume has the label `volume`; what adds up has `mechanism` or
`part`. Imported only in processes that serve metrics: the library takes memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from blockstore.daemon.control.bill import PARTS
from blockstore.printable import distinct
from blockstore.store.accounting.classes import CLASSES
from blockstore.store.accounting.report import Report

Figures: TypeAlias = Mapping[str, Any]
Series: TypeAlias = Iterable[tuple[list[str], float]]
"""Label values, and what was measured."""

STORED_CLASSES: Final = (*(name for name in CLASSES if name != "zero"), "references")


@dataclass(frozen=True)
class Observation:
    """`report` and `answer` as observe() returns them."""

    report: Report
    answer: Figures


@dataclass(frozen=True)
class _Of:
    """One family: its name without `blockstore_`, and where its series are in the figures of a volume or the total."""

    name: str
    help: str
    series: Callable[[Figures], Series]
    labels: tuple[str, ...] = ()
    is_counter: bool = False


def _one(key: str) -> Callable[[Figures], Series]:
    """The figure with this key; nothing where there is none."""
    return lambda figures: [([], float(figures[key]))] if figures.get(key) is not None else []


def _each(names: Iterable[str], prefix: str = "") -> Callable[[Figures], Series]:
    """The figures of these names, with the name as a label."""
    return lambda figures: [([name], float(figures[prefix + name])) for name in names]


def _in(part: str, key: str) -> Callable[[Figures], Series]:
    """The figure with this key of a part of the report, `snapshots` or `host`."""
    return lambda figures: [([], float(figures[part][key]))]


def _snapshot_records(figures: Figures) -> Series:
    return _each(STORED_CLASSES, "stored_")(figures["snapshots"])


def _parts(figures: Figures) -> Series:
    return [([part], float(figures["daemon_memory_parts"][part])) for part in PARTS]


def _processor_s(figures: Figures) -> Series:
    return [([name], float(each["processor_s"])) for name, each in (figures["processes"] or {}).items()]


def _background(key: str) -> Callable[[Figures], Series]:
    """What the daemon tells of its background work."""
    return lambda figures: [([], float(figures["background"][key]))]


def _write_back(key: str) -> Callable[[Figures], Series]:
    """What the daemon tells of write-back that has failed."""
    return lambda figures: [([], float(figures["write_back"][key]))] if figures["write_back"] else []


def _tier(key: str) -> Callable[[Figures], Series]:
    """What the daemon tells of the tier; nothing without one."""
    return lambda figures: [([], float(figures["tier"][key] or 0))] if figures["tier"] else []


def _tier_fails(figures: Figures) -> Series:
    return [([], float(bool(figures["tier"]["failing_since"])))] if figures["tier"] else []


def _arriving(key: str) -> Callable[[Figures], Series]:
    """What the daemon tells of blocks that are still at other hosts."""
    return lambda figures: [([], float(figures["arriving"][key] if figures["arriving"] else 0))]


def _sources_fail(figures: Figures) -> Series:
    sources = figures["arriving"]["sources"] if figures["arriving"] else []
    return [([], float(any(source["failing_since"] for source in sources)))]


def _controlled(key: str, scale: float = 1.0) -> Callable[[Figures], Series]:
    """A number that the controller tells; nothing for a volume without one, and where it has none (`auto`)."""

    def series(figures: Figures) -> Series:
        value = (figures.get("controller") or {}).get(key)
        return [([], value * scale)] if isinstance(value, int | float) else []

    return series


def _controller_info(figures: Figures) -> Series:
    control = figures.get("controller")
    if not control:
        return []
    mode = control["wanted"] if isinstance(control["wanted"], str) else "fixed"
    return [([mode, control["mechanism"] or "none", control.get("attached_by") or "none"], 1.0)]


VOLUME: Final = (
    _Of("volume_logical_bytes", "Size of the file.", _one("logical")),
    _Of("volume_touched_bytes", "Memory that was written and not freed.", _one("touched")),
    _Of("volume_memory_bytes", "Touched memory by how it is kept.", _each(CLASSES), ("mechanism",)),
    _Of("volume_stored_bytes", "Records in the pool by mechanism.", _each(STORED_CLASSES, "stored_"), ("mechanism",)),
    _Of("volume_resident_bytes", "In the kernel's page cache, uncompressed.", _one("resident")),
    _Of("volume_footprint_bytes", "What the host pays for the volume.", _one("footprint")),
    _Of("volume_saved_ratio", "1 - footprint / touched; negative where it costs more.", _one("saved")),
    _Of("volume_refaults", "Blocks that came back into memory from the store.", _one("refaults"), is_counter=True),
    _Of(
        "volume_controller_info", "How the controller holds the VM down.", _controller_info, ("mode", "mechanism", "by")
    ),
    _Of("volume_wanted_bytes", "Resident memory that the controller aims at.", _controlled("wanted")),
    _Of("volume_reclaimed_bytes", "Taken back by the controller.", _controlled("reclaimed"), is_counter=True),
    _Of("volume_refault_ratio", "Part of its time that the VM waits for refaults.", _controlled("refault_share")),
    _Of("volume_refault_cost_seconds", "What one refault costs the VM.", _controlled("refault_us", 1e-6)),
)
"""The label `volume` comes before those here."""

MOUNT: Final = (
    _Of("touched_bytes", "Touched memory of all volumes.", _one("touched")),
    _Of("footprint_bytes", "What the host pays for the volumes.", _one("footprint")),
    _Of("saved_ratio", "1 - footprint / touched of the volumes.", _one("saved")),
    _Of("snapshots", "Snapshots, which are no volumes.", _in("snapshots", "count")),
    _Of("snapshot_unique_bytes", "What only snapshots need.", _in("snapshots", "unique")),
    _Of("snapshot_footprint_bytes", "What the host pays for snapshots.", _in("snapshots", "footprint")),
    _Of("snapshot_stored_bytes", "Records that only snapshots need.", _snapshot_records, ("mechanism",)),
    _Of("pool_bytes", "Memory of the pool.", _in("host", "pool")),
    _Of("pool_limit_bytes", "The most that the pool may take.", _one("pool_limit")),
    _Of("pool_used_ratio", "The part of the pool's room that is in use.", _one("pool_full")),
    _Of("tables_bytes", "Memory of block rows, indexes and volume maps.", _in("host", "tables")),
    _Of("process_memory_bytes", "Memory of the mount's processes and small files.", _parts, ("part",)),
    _Of("process_cpu_seconds", "Processor time of a process of the mount.", _processor_s, ("part",), is_counter=True),
    _Of("restarts", "Daemons that took over since the mount was made.", _one("restarts"), is_counter=True),
    _Of("mounted_timestamp_seconds", "When the mount was made.", _one("mounted_at")),
    _Of("stalled_requests", "Requests that wait for room in the pool.", _one("stalled")),
    _Of(
        "refused_writes",
        "Writes that failed because too many waited for room.",
        _one("refused_writes"),
        is_counter=True,
    ),
    _Of("corrupt_reads", "Reads that met a block which cannot be read.", _one("corrupt_reads"), is_counter=True),
    _Of("lost_blocks", "Blocks that damaged tables cost at the daemon's start.", _one("lost_blocks")),
    _Of(
        "write_back_errors", "Files whose write-back was found to have failed.", _write_back("errors"), is_counter=True
    ),
    _Of("write_back_lost", "Those that could not be written again.", _write_back("lost"), is_counter=True),
    _Of("write_back_again_bytes", "Written again.", _write_back("rewritten_bytes"), is_counter=True),
    _Of("background_cpu_seconds", "Processor time of background work.", _background("cpu_s"), is_counter=True),
    _Of("background_saved_bytes", "Taken off cold records.", _background("saved_bytes"), is_counter=True),
    _Of("pool_fragmentation_ratio", "The part of the pool that holds no record.", _one("fragmentation")),
    _Of("due_blocks", "Blocks that are still to come from other hosts.", _arriving("due_blocks")),
    _Of("due_lost_blocks", "Blocks that were to come, and never will.", _arriving("lost_blocks")),
    _Of("due_failing", "1 if a place that blocks are to come from does not answer.", _sources_fail),
    _Of("tier_bytes", "In the tier.", _tier("bytes")),
    _Of("tier_pieces", "Pieces in the tier.", _tier("pieces")),
    _Of("tier_failing", "1 if the tier does not do what it is asked.", _tier_fails),
    _Of("tier_waiting_reads", "Reads that wait for the tier.", _tier("reads_waiting")),
    _Of("tier_missing_pieces", "Pieces that the tier has lost.", _tier("missing_pieces")),
    _Of("tier_out_bytes", "Moved to the tier.", _tier("out_bytes"), is_counter=True),
    _Of("tier_back_bytes", "Moved back into the pool.", _tier("back_bytes"), is_counter=True),
    _Of("replaceable", "1 if the mount outlives its daemon.", _one("can_be_replaced")),
    _Of("orphaned", "1 if the supervisor has died.", _one("is_orphaned")),
    _Of("state_lost", "1 if files of the state were deleted under the mount.", _one("is_state_lost")),
)

HISTOGRAMS: Final = (
    ("fault_duration_seconds", "fault_latency", "From reading a read request to its answer, in the daemon."),
    ("write_duration_seconds", "write_latency", "From reading a write request to its answer, in the daemon."),
    ("tier_read_duration_seconds", "tier_latency", "The same of read requests for which the tier was asked."),
)


def families(observation: Observation | None, version: str) -> Iterator[Metric]:
    """All of them; without an observation only that the mount is down."""
    yield GaugeMetricFamily("blockstore_up", "1 if the mount is there and its daemon answers.", int(bool(observation)))
    yield InfoMetricFamily("blockstore_build", "The version that serves the metrics.", {"version": version})
    if observation is None:
        return
    answer = observation.answer
    total = {
        **observation.report["total"],
        "snapshots": observation.report["snapshots"],
        "host": observation.report["host"],
        "is_orphaned": answer["is_orphaned"],
        "is_state_lost": bool(answer.get("state_loss")),
    }
    for each in MOUNT:
        yield _filled(each, each.labels, each.series(total))
    for name, key, text in HISTOGRAMS:
        yield _histogram(f"blockstore_{name}", text, total[key])
    volumes: dict[str, Figures] = observation.report["volumes"]
    labelled = list(zip(distinct(volumes), volumes.values(), strict=True))  # two alike would spoil the whole scrape
    for each in VOLUME:
        series = (([volume, *rest], value) for volume, figures in labelled for rest, value in each.series(figures))
        yield _filled(each, ("volume", *each.labels), series)


def _filled(each: _Of, labels: tuple[str, ...], series: Series) -> Metric:
    kind = CounterMetricFamily if each.is_counter else GaugeMetricFamily
    family = kind(f"blockstore_{each.name}", each.help, labels=labels)
    for values, value in series:
        family.add_metric(values, value)
    return family


def _histogram(name: str, text: str, figures: Figures | None) -> Metric:
    """Prometheus' classes are cumulative. Without a tier there are no figures of it."""
    if figures is None:
        return HistogramMetricFamily(name, text, labels=())
    bounds = [*(str(bound / 1e6) for bound in figures["bounds_us"]), "+Inf"]
    seen, buckets = 0, []
    for bound, count in zip(bounds, figures["counts"], strict=True):
        seen += count
        buckets.append((bound, float(seen)))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=figures["sum_us"] / 1e6)
