"""Measures against memory pressure: taken where there are privileges, left out and said where there are none."""

from __future__ import annotations

import sys

import pytest

from tests.daemon.lab import Lab, put, run

SCRIPT = """
from pathlib import Path
from blockstore.daemon import pressure
print(len(pressure.prepare()))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmLck"].split()[0]) > 0)
"""


def test_locked_with_privileges() -> None:
    result = run([sys.executable, "-c", SCRIPT])
    assert result.returncode == 0 and result.stdout.splitlines()[1] == "True", result


def test_said_without() -> None:
    script = SCRIPT.replace("print(len(pressure.prepare()))", "print(*pressure.prepare())")
    limited = f"ulimit -l 64; exec setpriv --reuid=65534 --regid=65534 --clear-groups {sys.executable} -c '{script}'"
    result = run(["bash", "-c", limited])
    assert result.returncode == 0, result
    sentence, locked = result.stdout.splitlines()
    assert "mlockall" in sentence and "PR_SET_IO_FLUSHER" in sentence and "oom_score_adj" in sentence
    assert locked == "False"


@pytest.mark.mount
def test_memory_goes_back_to_the_host_though_it_is_locked(lab: Lab) -> None:
    """MADV_REMOVE does not work on locked pages."""
    mounted = lab.mount()
    pool = mounted.state / "pool"
    for number in range(3):
        put(mounted.path / f"file{number}", bytes(range(256)) * 16 + number.to_bytes(4096, "big") * 2000)
        (mounted.path / f"file{number}").unlink()
    put(mounted.path / "big", b"".join(number.to_bytes(8, "big") * 512 for number in range(4096)))
    before = pool.stat().st_blocks
    (mounted.path / "big").unlink()
    run(["sleep", "0.5"])
    assert pool.stat().st_blocks < before or before <= 2 << 11
