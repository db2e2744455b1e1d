"""One system with one set: all guests start from the same point, do their light load, and are left alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from guestlab.guest import Guest

from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.saved import saved_guests
from benchlab.saved.saved_cost import Sample
from benchlab.saved.saved_guests import Saved
from benchlab.saved.saved_progress import Progress
from benchlab.saved.saved_systems import System, Times

LAST: Final = 3
"""Samples at the end whose mean is the result."""


class WrongMemory(BenchError):
    """A guest does not find in its memory what it has put there."""


@dataclass
class Cell:
    """What came of it."""

    system: str
    samples: list[Sample] = field(default_factory=list)
    requests: dict[str, Progress] = field(default_factory=dict)
    stack: dict[str, Any] = field(default_factory=dict)
    load_ended: float = 0.0

    @property
    def saved(self) -> float:
        """At the end, a fraction."""
        last = self.samples[-LAST:]
        return sum(sample.saved for sample in last) / len(last)

    @property
    def residents(self) -> dict[str, int]:
        """Of each guest, at the end."""
        last = self.samples[-LAST:]
        return {name: sum(each.residents[name] for each in last) // len(last) for name in last[-1].residents}

    def as_json(self) -> dict[str, Any]:
        requests = {name: progress.as_json() for name, progress in self.requests.items()}
        return {
            "saved": round(self.saved, 4),
            "load_ended": round(self.load_ended, 1),
            "series": [sample.as_json() for sample in self.samples],
            "residents": self.residents,
            "requests": requests,
            "stack": self.stack,
        }


def measure(bench: Bench, system: System, guests: Sequence[Saved], times: Times) -> Cell:
    """Run it. Raises BenchError, also when a guest's memory is not what it was."""
    cell = Cell(system.name)
    with system, saved_guests.started(guests, system.memory_path, system.runner) as running:
        system.loaded(running)
        began = time.monotonic()
        saved_guests.go_on(running.values())
        for guest in running.values():
            saved_guests.begin_load(guest)
        _wait_for_load(cell, system, running, began, times, has_load=any(saved.plan.light for saved in guests))
        cell.requests = {name: saved_guests.end_load(guest) for name, guest in running.items()}
        cell.load_ended = time.monotonic() - began
        # At rest once, it is looked at some times more: the mean of those is the result.
        left = LAST
        while left:
            if system.is_at_rest(time.monotonic() - began - cell.load_ended):
                left -= 1
            _tick(cell, system, running, began, times)
        cell.stack = system.stack()
        _verify(system, running)
    bench.say(f"saved: {system.name}: {100 * cell.saved:.1f} % after {cell.samples[-1].seconds:.0f} s")
    return cell


def _wait_for_load(
    cell: Cell, system: System, running: Mapping[str, Guest], began: float, times: Times, *, has_load: bool
) -> None:
    """Until all guests have done it, within the times."""
    while (passed_s := _tick(cell, system, running, began, times)) < times.longest_load:
        if not has_load:
            return
        if passed_s >= times.load and all(saved_guests.has_ended_load(guest) for guest in running.values()):
            return


def _tick(cell: Cell, system: System, running: Mapping[str, Guest], began: float, times: Times) -> float:
    """Look, and wait for the next time to; seconds since the guests began."""
    at = time.monotonic()
    cell.samples.append(system.look(running, at - began))
    time.sleep(max(times.every - (time.monotonic() - at), 0.1))
    return time.monotonic() - began


def _verify(system: System, running: Mapping[str, Guest]) -> None:
    for name, guest in running.items():
        if wrong := saved_guests.wrong_files(guest):
            raise WrongMemory(f"{system.name}: the memory of guest {name} is not what it was: {', '.join(wrong)}")
