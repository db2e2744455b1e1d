"""The report: a census in the words and keys that users see (`status --json`, `analyze --json`). Pure.

    {"volumes": {NAME: {...}}, "total": {...}}, and in each, in bytes unless said otherwise:

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
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blockstore.store.accounting.apportion import apportion
from blockstore.store.accounting.classes import CLASSES
from blockstore.store.state.geometry import BLOCK_BYTES

if TYPE_CHECKING:  # the compiled core, which processes without a store can do without
    from blockstore.store.accounting.census import Census, VolumeCensus

Report = dict[str, Any]


def describe(census: Census, names: Mapping[int, str]) -> Report:
    """The report of a store alone. `names` is by volume number; without one the number is the name."""
    volumes = {names.get(number, str(number)): _figures(each) for number, each in census.volumes.items()}
    assert len(volumes) == len(census.volumes), "two volumes of the same name"
    return {"volumes": volumes, "total": _figures(census.total)}


def complete(report: Report, resident: Mapping[str, int], daemon_memory: int) -> Report:
    """The report of a mount: with resident bytes and the daemon's memory on the bill as well."""
    volumes: dict[str, dict[str, Any]] = report["volumes"]
    shares = apportion(daemon_memory, [figures["touched"] for figures in volumes.values()])
    completed = {
        name: _with_host(figures, resident.get(name, 0), share)
        for (name, figures), share in zip(volumes.items(), shares, strict=True)
    }
    all_resident = sum(figures["resident"] for figures in completed.values())
    return {"volumes": completed, "total": _with_host(report["total"], all_resident, daemon_memory)}


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


def _with_host(figures: Mapping[str, Any], resident: int, daemon_memory: int) -> dict[str, Any]:
    return _with_sum({**figures, "daemon_memory": daemon_memory, "resident": resident})


def _with_sum(figures: dict[str, Any]) -> dict[str, Any]:
    """Footprint and saved, as the last keys."""
    footprint = sum(figures.get(key, 0) for key in ("pool", "tables", "daemon_memory", "resident"))
    others = {key: value for key, value in figures.items() if key not in ("footprint", "saved")}
    return {**others, "footprint": footprint, "saved": saved(figures["touched"], footprint)}
