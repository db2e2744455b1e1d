"""fio itself: the job files of scripts/fio, run on one peer, and what its JSON says."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchlab import processes
from benchlab.errors import BenchError
from benchlab.latency import faults

JOBS: Final = Path(__file__).resolve().parents[2] / "fio"
READ: Final = JOBS / "read.fio"
WRITE: Final = JOBS / "write.fio"
VERIFY: Final = JOBS / "verify.fio"

PATTERN_BYTES: Final = 512
"""fio 3.33 takes no more from a file."""

_SPARE_S: Final = 30.0
"""For each job, beside its own limit: what it wrote is written back after that."""

_UNITS: Final = {"k": 10, "m": 20}


@dataclass(frozen=True)
class Setting:
    """The variables of the job files, but for the file; `core` and `prefix` say how fio runs."""

    size_bytes: int
    seconds_at_most: float
    pattern: Path
    core: int
    prefix: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One job on one peer: a line of the raw data."""

    peer: str
    job: str
    engine: str
    pattern: str
    """random or sequential."""
    rw: str
    """read or write."""
    block_bytes: int
    mb_per_s: float
    iops: float
    clat_p50_us: float
    clat_p99_us: float
    repetitions: int = 1

    @property
    def measure(self) -> tuple[str, str]:
        """Rows of one measure are repetitions of each other."""
        return self.peer, self.job

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def job_names(path: Path) -> list[str]:
    """The sections of a job file but the global one, in order."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line[1:-1] for line in lines if line.startswith("[") and line.endswith("]") and line != "[global]"]


def run(jobs: Path, file: faults.Touched, setting: Setting, seed: int) -> list[dict[str, Any]]:
    """fio's own report of each job, in order. Raises BenchError."""
    variables = {
        "FILE": str(file.path),
        "SIZE": str(setting.size_bytes),
        "SECONDS_AT_MOST": f"{setting.seconds_at_most * 1000:.0f}ms",
        "SEED": str(seed),
        "PATTERN": str(setting.pattern),
    }
    command: list[str | Path] = [*setting.prefix, "fio", "--output-format=json", jobs]
    limit_s = len(job_names(jobs)) * (setting.seconds_at_most + _SPARE_S)
    return reports(processes.run(command, file.abort, limit_s, setting.core, variables))


def reports(output: bytes) -> list[dict[str, Any]]:
    """The jobs in what fio printed, notes before the JSON left out. Raises BenchError."""
    text = output.decode(errors="replace")
    try:
        jobs: list[dict[str, Any]] = json.loads(text[text.index("{") :])["jobs"]
    except (ValueError, KeyError) as error:
        raise BenchError(f"fio printed no report: {text[:200]}") from error
    for job in jobs:
        if job["error"]:
            raise BenchError(f"fio's {job['jobname']} failed with error {job['error']}")
    return jobs


def row(peer: str, report: dict[str, Any]) -> Row:
    """What counts of one job's report; fio gives latencies in ns."""
    options = report["job options"]
    mode = options["rw"]
    rw = mode.removeprefix("rand")
    part = report[rw]
    percentiles = part["clat_ns"].get("percentile", {})
    return Row(
        peer,
        report["jobname"],
        options["ioengine"],
        "sequential" if mode == rw else "random",
        rw,
        block_bytes(options["bs"]),
        part["bw_bytes"] / 1e6,
        part["iops"],
        percentiles.get("50.000000", 0) / 1e3,
        percentiles.get("99.000000", 0) / 1e3,
    )


def block_bytes(text: str) -> int:
    """4k, 1m: as fio counts them."""
    return int(text[:-1]) << _UNITS[text[-1]] if text[-1] in _UNITS else int(text)


def medians(rows: Sequence[Row]) -> list[Row]:
    """One row for each peer and job, in the order in which they came first."""
    together: dict[tuple[str, str], list[Row]] = {}
    for each in rows:
        together.setdefault(each.measure, []).append(each)
    return [_median(group) for group in together.values()]


def _median(rows: list[Row]) -> Row:
    first = rows[0]
    return Row(
        first.peer,
        first.job,
        first.engine,
        first.pattern,
        first.rw,
        first.block_bytes,
        statistics.median(each.mb_per_s for each in rows),
        statistics.median(each.iops for each in rows),
        statistics.median(each.clat_p50_us for each in rows),
        statistics.median(each.clat_p99_us for each in rows),
        len(rows),
    )
