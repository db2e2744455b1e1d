"""What the store would save on memory images that exist already: they go into a store in memory, no mount.

All images are in one domain, each is a volume. The same blocks are also counted as identical-page sharing
alone (KSM) and compression alone (zram with lz4) would have stored them. A hole of a sparse image is memory
that the VM never touched, and counts as such. Zeros that are written out in the image count as touched, and stand
apart: in most images they are memory that was never touched either, which costs nothing without a store too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blockstore.analysis import ladder
from blockstore.analysis.images import open_all
from blockstore.analysis.workbench import Progress, Workbench
from blockstore.store.accounting import census, comparison
from blockstore.store.accounting.report import Report, describe, saved
from blockstore.store.store import Store


def analyze(
    paths: Sequence[str],
    *,
    patching: bool = True,
    cold: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
) -> Report:
    """The report (store/accounting/report.py) of these images, with the fields of a Comparison (comparison.py, there)
    in its total. `nonzero` is what is not zero, `saved` the part of that which is not paid for, `saved_with_zeros` that
    of all that was touched. With `cold` also `steps` (ladder.py), and `stored_cold`: the records, were they all cold.

    Raises InputError for an image that cannot be used, OutOfRoom when memory does not suffice, and with
    `verify` CorruptBlock when an image does not read back as it was.
    """
    with ExitStack() as stack:
        bench = Workbench(open_all(paths, stack), progress or _unheard)
        stack.callback(bench.close)
        walk, gains = ladder.Climb(bench, patching=patching), []
        if cold:
            gains = ladder.climb(ladder.INGEST, walk)
        else:
            bench.feed(patching=patching)
        if verify:
            bench.verify()
        bench.progress("comparing", bench.data_bytes, bench.data_bytes)
        report = _report(bench.store, paths)
        if cold:
            gains += ladder.climb(ladder.COLD, walk)
            report["total"]["steps"] = ladder.describe(gains, report["total"]["nonzero"])
            report["total"]["stored_cold"] = bench.store.record_bytes
            if verify:
                bench.verify()
        return report


def _report(store: Store, paths: Sequence[str]) -> Report:
    """Of the images as they were put into the store just now."""
    found = describe(census.take(store), dict(enumerate(_names(paths), 1)))
    report = {key: found[key] for key in ("volumes", "total")}  # no image is a snapshot
    for figures in (*report["volumes"].values(), report["total"]):
        figures |= _of_nonzero(figures)
    report["total"] |= comparison.compare(store, zeros=report["total"]["zero_blocks"] > 0)._asdict()
    return report


def _of_nonzero(figures: dict[str, Any]) -> dict[str, Any]:
    touched, footprint = figures["touched"], figures["footprint"]
    nonzero = touched - figures["zero"]
    return {
        "blocks": figures["touched_blocks"],
        "bytes": touched,
        "nonzero": nonzero,
        "saved": saved(nonzero, footprint),
        "saved_with_zeros": saved(touched, footprint),
    }


def _names(paths: Sequence[str]) -> list[str]:
    """The base names; where several images have the same, their paths as they were given."""
    times = Counter(Path(path).name for path in paths)
    names = [Path(path).name if times[Path(path).name] == 1 else path for path in paths]
    return names if len(set(names)) == len(names) else list(paths)


def _unheard(stage: str, done: int, in_all: int) -> None:
    del stage, done, in_all
