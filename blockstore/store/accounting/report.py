"""The report: a census in the words and keys that users see (`status --json`, `analyze --json`). Pure.

    {"volumes": {NAME: {...}}, "snapshots": {...}, "total": {...}}, and in each volume and in total, in bytes unless
    said otherwise:

    logical        size of the file
    touched        memory that was written and not freed; = zero + shared + patched + compressed + dense + raw + paged
    zero ... paged how it is kept; like `touched`, also in blocks: touched_blocks, zero_blocks, ...
    stored         records in the pool; = stored_shared + stored_patched + stored_compressed + stored_dense
                   + stored_raw + stored_references (nobody has them any more, but patches are against them)
    stored_paged   records in the tier, which take no memory
    pool           memory of the pool: stored, and what is garbage or not yet filled
    tables         memory of the store's tables
    daemon_memory  of the mount's processes and small files            } only where there is a mount
    resident       in the kernel's page cache, uncompressed            }
    footprint      pool + tables + daemon_memory + resident: what the host pays
    saved          1 - footprint / touched, a fraction; negative where the store costs more than it saves

Every column but `saved` adds up: the volumes' figures to the total's, to the byte, if there is a volume.

Snapshots are no volumes there and in no figure of the total. Theirs are what no VM needs: their `count` and `names`,
`logical`, the `rows` (contents) and records that only they need (`stored` and its parts, `stored_paged`), and what
these take: pool, tables (their maps, and their part of what is kept for each row) and resident. The sum is `unique`:
what the host would get back if all of them were deleted. The processes would stay: their memory is the VMs', and the
snapshots' only where there is no VM. `footprint` is `unique` and that. `host`, of a mount, is the sum of total and
snapshots: all that the host pays, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from blockstore.store.accounting.apportion import apportion
from blockstore.store.accounting.classes import CLASSES, RECORDS
from blockstore.store.state.geometry import BLOCK_BYTES

if TYPE_CHECKING:  # the compiled core, which processes without a store can do without
    from blockstore.store.accounting.census import Census, SnapshotCensus, VolumeCensus

Report = dict[str, Any]

HOST: Final = ("pool", "tables", "daemon_memory", "resident")
"""What the host pays, and a footprint is the sum of."""

_NO_SNAPSHOTS: Final[Mapping[str, Any]] = {
    "count": 0,
    "names": [],
    **dict.fromkeys(("logical", "rows", "stored", *(f"stored_{name}" for name in RECORDS), "pool", "tables"), 0),
}
"""Of a daemon that was not reloaded yet and counts snapshots as VMs."""


def describe(census: Census, names: Mapping[int, str]) -> Report:
    """The report of a store alone. `names` is by volume number; without one the number is the name."""
    volumes = {names.get(number, str(number)): _figures(each) for number, each in census.volumes.items()}
    assert len(volumes) == len(census.volumes), "two volumes of the same name"
    return {
        "volumes": volumes,
        "snapshots": _snapshot_figures(census.snapshots, names),
        "total": _figures(census.total),
    }


def complete(report: Report, resident: Mapping[str, int], daemon_memory: int) -> Report:
    """The report of a mount: with resident bytes and the daemon's memory on the bill as well."""
    volumes: dict[str, dict[str, Any]] = report["volumes"]
    snapshots = report.get("snapshots", _NO_SNAPSHOTS)
    of_snapshots = daemon_memory if snapshots["count"] and not volumes else 0
    shares = apportion(daemon_memory - of_snapshots, [figures["touched"] for figures in volumes.values()])
    completed = {
        name: _with_host(figures, resident.get(name, 0), share)
        for (name, figures), share in zip(volumes.items(), shares, strict=True)
    }
    all_resident = sum(figures["resident"] for figures in completed.values())
    total = _with_host(report["total"], all_resident, daemon_memory - of_snapshots)
    snapshot_resident = sum(resident.get(name, 0) for name in snapshots["names"])
    snapshots = _with_unique({**snapshots, "daemon_memory": of_snapshots, "resident": snapshot_resident})
    host = {key: total[key] + snapshots[key] for key in ("stored", *HOST, "footprint")}
    return {"volumes": completed, "snapshots": snapshots, "total": total, "host": host}


def files(report: Report) -> Iterable[str]:
    """The names of all files that a report counts."""
    return [*report["volumes"], *report.get("snapshots", _NO_SNAPSHOTS)["names"]]


def saved(touched: int, footprint: int) -> float:
    """The fraction of `touched` that is not paid for; 0.0 where nothing was touched."""
    return 1 - footprint / touched if touched else 0.0


def _figures(census: VolumeCensus) -> dict[str, Any]:
    blocks = {"touched": census.touched_blocks, **{name: census.blocks[name] for name in CLASSES}}
    figures: dict[str, Any] = {"logical": census.logical_bytes}
    figures |= {name: count * BLOCK_BYTES for name, count in blocks.items()}
    figures |= {f"{name}_blocks": count for name, count in blocks.items()}
    figures["stored"] = census.stored_bytes
    figures |= {f"stored_{name}": size for name, size in census.record_bytes.items()}
    figures["pool"], figures["tables"] = census.pool_bytes, census.table_bytes
    return _with_sum(figures)


def _snapshot_figures(census: SnapshotCensus, names: Mapping[int, str]) -> dict[str, Any]:
    figures: dict[str, Any] = {"count": len(census.numbers)}
    figures["names"] = [names.get(number, str(number)) for number in census.numbers]
    figures |= {"logical": census.logical_bytes, "rows": census.rows, "stored": census.stored_bytes}
    figures |= {f"stored_{name}": size for name, size in census.record_bytes.items()}
    return _with_unique(figures | {"pool": census.pool_bytes, "tables": census.table_bytes})


def _with_unique(figures: dict[str, Any]) -> dict[str, Any]:
    """Unique and footprint, as the last keys."""
    unique = sum(figures.get(key, 0) for key in HOST if key != "daemon_memory")
    others = {key: value for key, value in figures.items() if key not in ("unique", "footprint")}
    return {**others, "unique": unique, "footprint": unique + figures.get("daemon_memory", 0)}


def _with_host(figures: Mapping[str, Any], resident: int, daemon_memory: int) -> dict[str, Any]:
    return _with_sum({**figures, "daemon_memory": daemon_memory, "resident": resident})


def _with_sum(figures: dict[str, Any]) -> dict[str, Any]:
    """Footprint and saved, as the last keys."""
    footprint = sum(figures.get(key, 0) for key in HOST)
    others = {key: value for key, value in figures.items() if key not in ("footprint", "saved")}
    return {**others, "footprint": footprint, "saved": saved(figures["touched"], footprint)}
