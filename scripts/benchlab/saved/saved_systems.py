"""The systems that are compared: guests on the store, and on anonymous memory with KSM, zram, both, or nothing.

Each is set up by `with`, starts guests, is looked at, and is asked after the load, every few seconds, whether it has
come to rest; a limit on what stays resident is moved then, too. All is undone at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from guestlab.guest import Guest

from benchlab import processes
from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.mounts import StoreMount
from benchlab.peers import ksm, swap
from benchlab.saved import saved_cost, saved_drop, saved_run
from benchlab.saved.saved_cost import Mapped, Sample
from benchlab.saved.saved_guests import Saved
from benchlab.undo import Undo
from blockstore.daemon.control.bill import process_bytes
from blockstore.daemon.host.memory_limit import V1
from blockstore.store.accounting.classes import CLASSES, RECORDS
from blockstore.vm.memory import cgroups
from blockstore.vm.memory.cgroups import Cgroup

SWAPPINESS: Final = "100"
"""Guests' memory is as good as files' to the kernel, when it looks for pages to take; 60 would spare it."""

_EVICT_S: Final = 60.0
PAGE_BYTES: Final = 4096

STEADY_FROM: Final = 26
"""Looks: the load comes first, and blocks are encoded anew only when they have been cold for half a minute."""

STEADY_LOOKS: Final = 6
STEADY_SHARE: Final = 0.98
"""Of the mean cost of STEADY_LOOKS looks before. In 18 s the encoding of cold blocks takes away more than that."""

STORED: Final = tuple(f"stored_{name}" for name in RECORDS)
MECHANISMS: Final = CLASSES


@dataclass(frozen=True)
class Times:
    """How long each part of a measurement takes, in seconds."""

    load: float
    """At least; also where no guest has one."""
    longest_load: float
    """Every guest does all of its load, so that all systems are compared at the same progress; no longer than that."""
    rest: float
    """The store is waited for until what it costs no longer shrinks, but no longer than that. 0: it is not waited for,
    all is evicted at once."""
    rest_scanning: float
    """KSM is waited for until it is done, but no longer."""
    rest_swapping: float
    """After the limit was lowered."""
    every: float
    """From one look to the next."""


class System(Protocol):
    """One of them. `with` sets it up and undoes it."""

    name: str

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def memory_path(self, saved: Saved) -> Path:
        """The file that is the guest's memory, if it is one."""
        ...

    def runner(self, saved: Saved) -> list[str]:
        """What starts QEMU with its memory."""
        ...

    def loaded(self, guests: Mapping[str, Guest]) -> None:
        """All guests are there, and are about to go on."""
        ...

    def look(self, guests: Mapping[str, Guest], seconds: float) -> Sample:
        """What they touched and cost now."""
        ...

    def is_at_rest(self, rested_s: float) -> bool:
        """After so many seconds without a load; also moves what has to be moved meanwhile."""
        ...

    def stack(self) -> dict[str, Any]:
        """What was seen last, by mechanism."""
        ...


class OnStore:
    """`blockstore run`, with `--resident auto`; without patches if so wanted."""

    def __init__(self, bench: Bench, times: Times, *, patches: bool) -> None:
        self.name = "store" if patches else "no patches"
        self._bench = bench
        self._rest_s = times.rest
        self._options = [] if patches else ["--no-patch"]
        self._costs: list[int] = []
        self._report: dict[str, Any] = {}
        self._parts: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.mount = StoreMount(self._bench.workspace, "saved", *self._options)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.mount.__exit__(kind, error, traceback)

    def memory_path(self, saved: Saved) -> Path:
        return self.mount.path / saved.plan.name

    def runner(self, saved: Saved) -> list[str]:
        run = [sys.executable, "-m", "blockstore", "run", saved.plan.name, "--mount", str(self.mount.path)]
        return [*run, "--memory", f"{saved.of.memory_bytes >> 20}M", "--resident", "auto", "--"]

    def loaded(self, guests: Mapping[str, Guest]) -> None:
        drop = saved_drop.command(self.mount.path, [_qemu(guest) for guest in guests.values()])
        processes.run(drop, self.mount.abort, _EVICT_S)

    def look(self, guests: Mapping[str, Guest], seconds: float) -> Sample:
        report = self._report = self.mount.status()
        total = report["total"]
        self._parts = {
            "resident": total["resident"],
            "pool": total["pool"],
            "tables": total["tables"],
            # The shell that `blockstore run` becomes is in no bill of the mount.
            "processes": total["daemon_memory"] + sum(process_bytes(guest.pid) for guest in guests.values()),
            "page_tables": _page_tables(guests),
        }
        self._costs.append(sum(self._parts.values()))
        residents = {name: int(volume["resident"]) for name, volume in report["volumes"].items()}
        return Sample(seconds, total["touched"], self._parts, residents)

    def is_at_rest(self, rested_s: float) -> bool:
        if not self._rest_s:
            evict: list[str | Path] = [sys.executable, "-m", "blockstore", "evict", self.mount.path]
            processes.run(evict, self.mount.abort, _EVICT_S)
        return rested_s >= self._rest_s or is_steady(self._costs)

    def stack(self) -> dict[str, Any]:
        total = self._report["total"]
        cost = {key: total[key] for key in STORED}
        cost["pool_rest"] = total["pool"] - sum(cost.values())
        cost |= {key: size for key, size in self._parts.items() if key != "pool"}
        waits = {name: (volume["controller"] or {}).get("refault_share") for name, volume in _volumes(self._report)}
        return {"cost": cost, "memory": {key: total[key] for key in MECHANISMS}, "refault_share": waits}


class Anonymous:
    """Ordinary memory, with what the kernel has for it. `wanted` says how many bytes of each guest stay resident under
    zram."""

    def __init__(
        self,
        bench: Bench,
        memory_bytes: int,
        times: Times,
        *,
        merging: bool,
        swapping: bool,
        wanted: Mapping[str, int] | None = None,
    ) -> None:
        names = {(False, False): "nothing", (True, False): "ksm", (False, True): "zram", (True, True): "ksm+zram"}
        self.name = names[merging, swapping]
        self._memory_bytes = memory_bytes
        self._times = times
        self._merging, self._swapping = merging, swapping
        self._wanted = dict(wanted or {})
        self._undo = Undo(bench.workspace.mounts)
        self._cgroups: dict[str, Cgroup] = {}
        self._mapped: dict[str, Mapped] = {}
        self._parts: dict[str, int] = {}
        self._swap: swap.Swap | None = None
        self._watch: ksm.Watch | None = None
        self._items = 0
        self._pressed_at: float | None = None
        self._settings: dict[str, str] = {}

    def __enter__(self) -> Self:
        reason = (ksm.refusal() if self._merging else "") or (swap.refusal() if self._swapping else "")
        if reason:  # somebody has come since the set began
            raise BenchError(reason)
        try:
            if self._swapping:
                self._set_up_swap()
            if self._merging:
                self._settings = ksm.turn_on(self._undo)
                self._watch = ksm.Watch()
        except (OSError, LookupError) as error:
            self._undo.__exit__(None, None, None)
            raise BenchError(f"{self.name} cannot be set up: {error}") from error
        except BaseException:
            self._undo.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.__exit__(kind, error, traceback)

    def memory_path(self, saved: Saved) -> Path:
        return Path()

    def runner(self, saved: Saved) -> list[str]:
        cgroup = self._cgroups.get(saved.plan.name)
        return saved_run.command(saved.of.memory_bytes, cgroup.path if cgroup else None, merge=self._merging)

    def loaded(self, guests: Mapping[str, Guest]) -> None:
        pass

    def look(self, guests: Mapping[str, Guest], seconds: float) -> Sample:
        self._mapped = {name: saved_cost.of_guest(_qemu(guest), self._memory_bytes) for name, guest in guests.items()}
        self._parts = {"resident": sum(each.pss for each in self._mapped.values()), "page_tables": _page_tables(guests)}
        touched = sum(each.rss + each.swap for each in self._mapped.values())
        if self._merging:
            self._items = ksm.items_of([_qemu(guest) for guest in guests.values()])
            self._parts["ksm_tables"] = ksm.table_bytes(ksm.counters(), self._items, len(guests))
        if self._swap is not None:
            self._parts["zram"] = int(self._swap.figures()["used"] * self._guests_part(guests))
            self._parts["swap_tables"] = self._swap.table_bytes
        return Sample(seconds, touched, self._parts, {name: each.pss for name, each in self._mapped.items()})

    def is_at_rest(self, rested_s: float) -> bool:
        if self._pressed_at is None:
            scanned = self._watch is None or self._watch.is_stable() or rested_s >= self._times.rest_scanning
            if not scanned:
                return False
            self._pressed_at = rested_s
        if not self._swapping:
            return True
        for name, cgroup in self._cgroups.items():
            try:
                saved_cost.hold(cgroup, self._mapped[name].pss, self._wanted[name])
            except OSError as error:
                raise BenchError(f"{self.name}: the limit of guest {name} cannot be moved: {error}") from error
        return rested_s - self._pressed_at >= self._times.rest_swapping

    def stack(self) -> dict[str, Any]:
        result: dict[str, Any] = {"cost": dict(self._parts)}
        if self._watch is not None:
            found = ksm.counters()
            merged = {"shared": found.pages_shared * PAGE_BYTES, "spared": found.pages_sharing * PAGE_BYTES}
            strangers = max(found.rmap_items - self._items, 0) * PAGE_BYTES
            result["ksm"] = {
                **merged,
                "of_others": strangers,
                "counters": self._watch.as_json(),
                "settings": self._settings,
            }
        if self._swap is not None:
            swapped = sum(each.swap for each in self._mapped.values())
            distinct = sum(each.swap_pss for each in self._mapped.values())
            result["zram"] = {"swapped": swapped, "distinct": distinct, "wanted": self._wanted, **self._swap.figures()}
        return result

    def _set_up_swap(self) -> None:
        """A cgroup for each guest, and swap that holds all of their memory."""
        own = cgroups.home()
        for name in self._wanted:
            cgroup = self._cgroups[name] = cgroups.create(name, own)
            self._undo.remove_at_end(cgroup.path)
            if cgroup.version == V1:  # version 2 has the machine's, which is 60
                (cgroup.path / "memory.swappiness").write_text(SWAPPINESS)
        self._swap = swap.Swap(self._undo, len(self._wanted) * self._memory_bytes)

    def _guests_part(self, guests: Mapping[str, Guest]) -> float:
        """Of what is in zram: QEMU's own heap is there too, and no part of what is compared."""
        everything = sum(saved_cost.swapped_bytes(_qemu(guest)) for guest in guests.values())
        return sum(each.swap_pss for each in self._mapped.values()) / everything if everything else 1.0


def is_steady(sizes: Sequence[int]) -> bool:
    """Whether what was looked at every few seconds no longer shrinks. It goes up and down, so means are compared."""
    if len(sizes) < STEADY_FROM:
        return False
    last, before = sizes[-STEADY_LOOKS:], sizes[-2 * STEADY_LOOKS : -STEADY_LOOKS]
    return sum(last) >= STEADY_SHARE * sum(before)


def limit_refusal() -> str:
    """Why no guest can be held down by a memory cgroup here; empty if it can."""
    try:
        made = cgroups.create("saved-trial", cgroups.home())
        made.remove()
    except (LookupError, OSError) as error:
        return f"no memory cgroup can be had ({error.strerror if isinstance(error, OSError) else error})"
    return ""


def _qemu(guest: Guest) -> int:
    return saved_cost.qemu_of(guest.pid)


def _page_tables(guests: Mapping[str, Guest]) -> int:
    return sum(saved_cost.page_table_bytes(_qemu(guest)) for guest in guests.values())


def _volumes(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(report["volumes"].items())
