"""KSM, the kernel's own sharing of identical pages: turned on for a measurement, watched, and left as it was found.

It is made to get through all memory several times while we wait, which takes it a good part of a core; by its own
settings (100 pages every 20 ms) it would need minutes for each pass over four guests, and two passes to find anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchlab.undo import Undo

FOLDER: Final = Path("/sys/kernel/mm/ksm")

SETTINGS: Final = {"pages_to_scan": "4000", "sleep_millisecs": "20", "smart_scan": "0"}
"""Without smart_scan no page is passed over. max_page_sharing, use_zero_pages and the rest stay as they are."""

STABLE_S: Final = 6.0
STABLE_GROWTH: Final = 0.002
"""It is done when pages_sharing grew by less than that part in so many seconds, and all pages were seen twice then."""

_SLABS: Final = Path("/sys/kernel/slab")
_USUAL_BYTES: Final = {"ksm_rmap_item": 64, "ksm_stable_node": 64, "ksm_mm_slot": 48}
"""Of each object, where the kernel does not tell (CONFIG_SLUB_DEBUG is off)."""


class Counters(NamedTuple):
    """What KSM says of itself (Documentation/admin-guide/mm/ksm.rst)."""

    pages_shared: int
    """Pages that are kept for others."""
    pages_sharing: int
    """Pages that are spared, because they are one of those."""
    pages_unshared: int
    pages_volatile: int
    full_scans: int

    @property
    def rmap_items(self) -> int:
        """One for each page that was scanned."""
        return self.pages_shared + self.pages_sharing + self.pages_unshared + self.pages_volatile


def refusal(folder: Path = FOLDER) -> str:
    """Why it is not to be touched here; empty if it may be."""
    if not folder.is_dir():
        return "this kernel has no KSM"
    if os.geteuid():
        return "only root may turn KSM on"
    if (folder / "run").read_text().strip() != "0" or counters(folder).pages_shared:
        return "KSM runs on this machine already: somebody else uses it"
    return ""


def turn_on(undo: Undo, folder: Path = FOLDER) -> dict[str, str]:
    """Scan from now on; the settings that apply. At the end all pages are unmerged and all settings put back."""
    for name, value in SETTINGS.items():
        if (folder / name).exists():  # smart_scan came with Linux 6.7
            undo.write(folder / name, value)
    run = folder / "run"
    undo.write_at_end(run, run.read_text().strip())
    undo.write_at_end(run, "2")
    run.write_text("1")
    names = (*SETTINGS, "max_page_sharing", "use_zero_pages", "advisor_mode")
    return {name: (folder / name).read_text().strip() for name in names if (folder / name).exists()}


def counters(folder: Path = FOLDER) -> Counters:
    """As they are now."""
    return Counters(*(int((folder / name).read_text()) for name in Counters._fields))


def table_bytes(found: Counters, items: int, processes: int) -> int:
    """What KSM keeps in the kernel about pages that it has seen: a reverse mapping of each, a node of each that is
    shared, a slot of each process. The objects often share their slabs with others, so that /proc/slabinfo does not
    have them; they are counted by KSM's own counters."""
    objects = {"ksm_rmap_item": items, "ksm_stable_node": found.pages_shared, "ksm_mm_slot": processes}
    return sum(count * _object_bytes(name) for name, count in objects.items())


def items_of(pids: Iterable[int]) -> int:
    """Reverse mappings of these processes. Where the kernel does not tell (before Linux 6.1), those of all."""
    try:
        texts = [Path(f"/proc/{pid}/ksm_stat").read_text() for pid in pids]
    except OSError:
        return counters().rmap_items
    return sum(
        int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("ksm_rmap_items")
    )


def _object_bytes(name: str) -> int:
    try:
        return int((_SLABS / name / "slab_size").read_text())
    except (OSError, ValueError):
        return _USUAL_BYTES[name]


class Watch:
    """Tells when KSM has found what there is to find. Ask it every few seconds."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, Counters]] = []
        self._first = counters().full_scans

    def is_stable(self) -> bool:
        """Whether another pass would bring no more."""
        now, found = time.monotonic(), counters()
        self._seen.append((now, found))
        earlier = [each for at, each in self._seen if now - at >= STABLE_S]
        if not earlier or found.full_scans < self._first + 3:
            return False
        return found.pages_sharing - earlier[-1].pages_sharing < STABLE_GROWTH * max(found.pages_sharing, 1)

    def as_json(self) -> dict[str, Any]:
        """The counters, and how many times all pages were seen since the watch began."""
        found = counters()
        return {**found._asdict(), "full_scans": found.full_scans - self._first}
