"""The history of a mount: samples of the whole picture (observe.py), in `daemon.history` of the state directory.

The controller takes them (controller.py), `blockstore report` draws them. One line of JSON is one sample and says all
about itself, its mount included: so a damaged line costs one sample, the next controller goes on where the last one
stopped, and the samples of another mount are told apart. Nothing is kept in memory, and little imported: the
controller lives as long as the mount.

    {"time": 1732.5, "mounted_at": 1700.1, "interval": 5.0, "restarts": 0, "total": [...], "snapshots": [...],
     "volumes": {NAME: [...]}}

The lists are the Figures and the Snapshots in their order, sizes in KiB. A sample without `snapshots` is older than
they: it counts snapshots as VMs.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

from blockstore.daemon.host.mounts import Mount
from blockstore.errors import MountError
from blockstore.vm.observe.log_line import log
from blockstore.vm.observe.observe import observe

NAME: Final = "daemon.history"

# The limits. The file is on the mount's own bill, and a chart is a thousand points wide at most. When one of the first
# two is reached, every other sample is dropped and the interval doubles: so the whole time since the mount was made is
# there, ever more coarsely.
MAXIMUM_SAMPLES: Final = 512
MAXIMUM_BYTES: Final = 1 << 20
MAXIMUM_LINE_BYTES: Final = 8 << 10
"""Of one sample, so that 128 of the largest fit: some 90 VMs, the largest; the others are in the total only."""

MAXIMUM_VOLUME_BYTES: Final = 1 << 10
"""Of one volume in it: a name can be longer than all else, and that is no reason to leave the other volumes out."""

FIRST_INTERVAL_S: Final = 5.0

REST_S: Final = 1.5
"""After a mount was made: a sample opens every file, and who mounts and unmounts at once shall not find it busy."""

COST_FACTOR: Final = 100
"""An interval is at least so many times as long as taking the sample took: that costs under one per cent."""

LATEST_S: Final = float(1 << 33)
"""In the year 2242; a time that is later is none."""

_CHUNK_BYTES: Final = 1 << 16


class Figures(NamedTuple):
    """Of a volume or the total, in docs/status.md's words; sizes in bytes. `refaults` begins again at 0 with each
    daemon."""

    logical: int
    zero: int
    shared: int
    patched: int
    compressed: int
    dense: int
    raw: int
    paged: int
    stored: int
    pool: int
    tables: int
    daemon_memory: int
    resident: int
    refaults: int

    @property
    def touched(self) -> int:
        return self.zero + self.shared + self.patched + self.compressed + self.dense + self.raw + self.paged

    @property
    def footprint(self) -> int:
        return self.pool + self.tables + self.daemon_memory + self.resident


class Snapshots(NamedTuple):
    """How many there are, and what only they need, in bytes; in docs/status.md's words."""

    files: int = 0
    unique: int = 0
    footprint: int = 0


class Sample(NamedTuple):
    """`time_s` and `mounted_at` in seconds since 1970; `volumes` may lack small ones (MAXIMUM_LINE_BYTES)."""

    time_s: float
    mounted_at: float
    interval_s: float
    restarts: int
    total: Figures
    volumes: dict[str, Figures]
    snapshots: Snapshots = Snapshots()


class Recorder:
    """The history of the mount with this state directory, for its controller."""

    def __init__(self, state: Path) -> None:
        self._path = state / NAME
        self._due_s = 0.0
        self._complaint = ""

    def rest(self) -> None:
        """Takes no sample for REST_S."""
        self._due_s = time.monotonic() + REST_S

    def sample_if_due(self, mount: Mount) -> None:
        """Take a sample if it is time to. Never raises: what cannot be taken or written is missing, that is all."""
        started_s = time.monotonic()
        if started_s < self._due_s:
            return
        interval_s, took_s = FIRST_INTERVAL_S, 0.0
        try:
            report, _ = observe(mount)
            took_s = time.monotonic() - started_s
            interval_s = append(self._path, sample_of(report, time.time()))
        except (MountError, OSError):
            pass  # the controller's tick says what is wrong with the mount; a full file system is in `status`
        except Exception as error:  # an answer of other code, in the moment of a reload; the controller must go on
            self._complain(f"{type(error).__name__}: {error}")
        self._due_s = started_s + max(interval_s, COST_FACTOR * took_s)

    def _complain(self, text: str) -> None:
        """Once, not every few seconds."""
        if text != self._complaint:
            self._complaint = text
            log("history", text)


def sample_of(report: Mapping[str, Any], time_s: float) -> Sample:
    """What is kept of a report of observe()."""
    total = report["total"]
    volumes = {name: _figures(each) for name, each in report["volumes"].items()}
    snapshots = Snapshots(*(report["snapshots"][key] for key in ("count", "unique", "footprint")))
    mounted_at, restarts = total["mounted_at"], total["restarts"]
    return Sample(time_s, mounted_at, FIRST_INTERVAL_S, restarts, _figures(total), volumes, snapshots)


def append(path: Path, sample: Sample) -> float:
    """Add a sample, within the limits; the interval in seconds to the next one. Raises OSError.

    A history of another mount is begun anew; `sample.interval_s` counts only there.
    """
    found = _look(path, sample.mounted_at)
    if found.last is None:
        path.unlink(missing_ok=True)
        found, interval_s = _Found(0, 0, True, None), sample.interval_s
    else:
        interval_s = found.last.interval_s
    line = encode(sample._replace(interval_s=interval_s))
    if found.lines < MAXIMUM_SAMPLES and found.size + len(line) < MAXIMUM_BYTES:
        _write(path, os.O_APPEND, [line if found.is_whole else b"\n" + line])
        return interval_s
    interval_s *= 2
    _thin(path, encode(sample._replace(interval_s=interval_s)))
    return interval_s


def read(state: Path, mounted_at: float) -> list[Sample]:
    """The samples of the mount that was made at this time, the oldest first. Empty if there are none."""
    try:
        with (state / NAME).open("rb") as file:
            lines = file.read(MAXIMUM_BYTES).split(b"\n")
    except OSError:
        return []
    samples = [sample for sample in map(decode, lines) if sample is not None and sample.mounted_at == mounted_at]
    return sorted(samples, key=lambda sample: sample.time_s)  # a clock may have been set back


def encode(sample: Sample) -> bytes:
    """The line; of the volumes those with the largest footprint, as far as there is room."""
    fields = {
        "time": round(sample.time_s, 3),
        "mounted_at": sample.mounted_at,
        "interval": sample.interval_s,
        "restarts": sample.restarts,
        "total": _numbers(sample.total),
        "snapshots": [sample.snapshots.files, *(size >> 10 for size in sample.snapshots[1:])],
    }
    room = MAXIMUM_LINE_BYTES - len(_json(fields)) - len(b',"volumes":{}\n')
    volumes = {}
    for name, figures in sorted(sample.volumes.items(), key=lambda item: -item[1].footprint):
        numbers = _numbers(figures)
        size = len(_json({name: numbers})) - len(b"{}") + len(b",")
        if size > MAXIMUM_VOLUME_BYTES:
            continue
        room -= size
        if room < 0:
            break
        volumes[name] = numbers
    return _json({**fields, "volumes": volumes}) + b"\n"


def decode(line: bytes) -> Sample | None:
    """The sample; None for what is none."""
    try:
        fields = json.loads(line)
        sample = Sample(
            float(fields["time"]),
            float(fields["mounted_at"]),
            float(fields["interval"]),
            _number(fields["restarts"]),
            _sizes(fields["total"]),
            {str(name): _sizes(numbers) for name, numbers in fields["volumes"].items()},
            _snapshots(fields.get("snapshots", Snapshots())),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    times = (sample.time_s, sample.mounted_at, sample.interval_s)
    return sample if all(math.isfinite(each) and 0 <= each < LATEST_S for each in times) else None


class _Found(NamedTuple):
    """A history file as it is; `is_whole`: it does not end within a line; `last` is None if it is not ours."""

    size: int
    lines: int
    is_whole: bool
    last: Sample | None


def _look(path: Path, mounted_at: float) -> _Found:
    """Looks at each byte once and keeps none: a megabyte may be more than the controller has."""
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return _Found(0, 0, True, None)
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > MAXIMUM_BYTES:
            return _Found(size, 0, True, None)
        lines, tail = 0, b""
        while chunk := file.read(_CHUNK_BYTES):
            lines += chunk.count(b"\n")
            tail = (tail + chunk)[-2 * MAXIMUM_LINE_BYTES :]
    samples = map(decode, reversed(tail.split(b"\n")))
    last = next((sample for sample in samples if sample is not None and sample.mounted_at == mounted_at), None)
    return _Found(size, lines, tail.endswith(b"\n"), last)


def _thin(path: Path, line: bytes) -> None:
    """Drop every other line, and what is none; add this one. The first stays: it is when all began."""
    temporary = path.with_name(NAME + ".new")
    try:
        with path.open("rb") as file:
            _write(temporary, os.O_TRUNC, chain(_every_other(file, MAXIMUM_BYTES * 3 // 4), [line]))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _every_other(lines: Iterable[bytes], room: int) -> Iterator[bytes]:
    """Of the lines that are whole, no more bytes than this."""
    keep = False
    for line in lines:
        if len(line) > MAXIMUM_LINE_BYTES or not line.endswith(b"}\n"):
            continue
        keep = not keep
        if keep and len(line) <= room:
            room -= len(line)
            yield line


def _write(path: Path, flags: int, lines: Iterable[bytes]) -> None:
    """All or, if the file system is full, a part: what is cut off is no sample."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        for line in lines:
            os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _figures(figures: Mapping[str, Any]) -> Figures:
    return Figures(*(figures[key] for key in Figures._fields))


def _numbers(figures: Figures) -> list[int]:
    return [*(size >> 10 for size in figures[:-1]), figures.refaults]


def _sizes(numbers: Any) -> Figures:
    *sizes, refaults = (_number(number) for number in numbers)
    return Figures._make([*(size << 10 for size in sizes), refaults])


def _snapshots(numbers: Any) -> Snapshots:
    files, unique, footprint = (_number(number) for number in numbers)
    return Snapshots(files, unique << 10, footprint << 10)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError
    return value


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
