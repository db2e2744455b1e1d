"""Measures against memory pressure: taken where there are privileges, left out and said where there are none."""

from __future__ import annotations

import sys

import pytest

from tests.daemon.lab import Lab, noisy, put, run, until

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
    pool, data = mounted.state / "pool", noisy(16 << 20, 1)
    put(mounted.path / "file", data)
    assert mounted.total()["stored"] == len(data)
    before = pool.stat().st_blocks
    (mounted.path / "file").unlink()
    until(lambda: (before - pool.stat().st_blocks) * 512 >= len(data) // 2, "the memory goes back")
