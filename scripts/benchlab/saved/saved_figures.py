"""The figures of a set of guests: what each system saved, how soon the store had it, and what the guests felt of it.

All come from what the cells of one run have seen (saved_cells.py), so that what disturbs the machine disturbs all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from benchlab.figures import AT_LEAST, AT_MOST, Figure
from benchlab.saved.saved_cells import Cell

KSM_TARGET: Final = 1.5
"""What the paper had over a scanner for guests that are alike; for others it had more."""


class Targets(NamedTuple):
    """What is promised of one set."""

    saved_percent: float
    footprint_share: float
    """Of the store / of KSM and zram together, each as a part of what its guests touched."""


TARGETS: Final[Mapping[str, Targets]] = {
    "idle": Targets(69.0, 0.70),
    "different": Targets(76.0, 0.62),
    "alike": Targets(84.0, 0.48),
}

SETTLED_TARGET_S: Final = 45.0
"""From the end of the load to SETTLED_SHARE of what is saved at the end."""

SETTLED_SHARE: Final = 0.9

FIRST_S: Final = 20.0
"""Of the load, whose requests are counted: the store is at work then."""

REQUESTS_TARGET: Final = 0.9

STORE: Final = "store"
BOTH: Final = "ksm+zram"
PLAIN: Final = "nothing"


def figures(name: str, cells: Mapping[str, Cell], *, quick: bool) -> list[Figure]:
    """What something is promised of, and what each system saved; `name` is the set's. --quick promises nothing."""
    found = _of_the_end(name, cells) + _of_the_way(name, cells) if not quick else []
    for system, cell in cells.items():
        target = TARGETS[name].saved_percent if system == STORE and name in TARGETS and not quick else None
        found.append(Figure("saved", f"{name}: {system}", 100 * cell.saved, "%", target, AT_LEAST, note=_note(cell)))
    return found


def settled_s(cell: Cell) -> float:
    """Seconds from the end of the load to the first sample from which on all have SETTLED_SHARE of what is saved at the
    end; 0 if they had it before."""
    least = SETTLED_SHARE * cell.saved
    settled = cell.load_ended
    for sample in reversed(cell.samples):
        if sample.seconds < cell.load_ended or sample.saved < least:
            break
        settled = sample.seconds
    return max(settled - cell.load_ended, 0.0)


def requests_share(cell: Cell, plain: Cell) -> float | None:
    """Requests answered in the first FIRST_S of the load, of those that the same guest answered on plain memory: the
    mean of all guests, or None if no guest had a load. One that had answered all by then is compared at that moment."""
    shares: list[float] = []
    for guest, progress in plain.requests.items():
        until_s = min(FIRST_S, progress.seconds)
        if answered := progress.answered_by(until_s):
            shares.append(cell.requests[guest].answered_by(until_s) / answered)
    return sum(shares) / len(shares) if shares else None


def _of_the_end(name: str, cells: Mapping[str, Cell]) -> list[Figure]:
    """What is left to pay, beside what others save."""
    found: list[Figure] = []
    saved = {system: cell.saved for system, cell in cells.items()}
    if saved.get("ksm", 0) > 0:
        found.append(Figure("saved", f"{name}: store / KSM", saved[STORE] / saved["ksm"], "", KSM_TARGET, AT_LEAST))
    if BOTH in saved:
        share = (1 - saved[STORE]) / (1 - saved[BOTH])
        target = TARGETS[name].footprint_share if name in TARGETS else None
        found.append(Figure("saved", f"{name}: footprint, store / KSM and zram together", share, "", target, AT_MOST))
    return found


def _of_the_way(name: str, cells: Mapping[str, Cell]) -> list[Figure]:
    """How long it took, and what the guests got done meanwhile."""
    found: list[Figure] = []
    for system, target in ((STORE, SETTLED_TARGET_S), (BOTH, None)):
        if system in cells:
            title = f"{name}: load's end to nine tenths, {system}"
            found.append(Figure("saved", title, settled_s(cells[system]), "s", target, AT_MOST))
    if PLAIN not in cells:
        return found
    for system, target in ((STORE, REQUESTS_TARGET), (BOTH, None)):
        share = requests_share(cells[system], cells[PLAIN]) if system in cells else None
        if share is not None:
            title = f"{name}: requests in the first {FIRST_S:.0f} s, {system} / plain memory"
            found.append(Figure("saved", title, share, "", target, AT_LEAST))
    return found


def _note(cell: Cell) -> str:
    last = cell.samples[-1]
    parts = ", ".join(f"{part.replace('_', ' ')} {size / 2**20:.0f}" for part, size in last.parts.items())
    done = sum(progress.done for progress in cell.requests.values())
    return f"MiB: touched {last.touched / 2**20:.0f}; {parts}" + (f"; {done} requests" if done else "")
