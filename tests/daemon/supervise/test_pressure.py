"""Measures against memory pressure: taken where there are privileges, left out and said where there are none."""

from __future__ import annotations

import sqlite3
import sys

import pytest

from tests.daemon.lab import Lab, noisy, put, run, until

SCRIPT = """
from pathlib import Path
from blockstore.daemon.supervise import pressure
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


SHED = """
import sqlite3
from pathlib import Path
from blockstore.daemon.supervise import pressure

def ask():
    return sqlite3.connect(":memory:").execute("select sum(value) from json_each('[1, 2, 3]')").fetchone()[0]

def resident_kb():
    found, is_text = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            is_text = fields[1] == "r-xp" and "_sqlite3" in fields[-1]
        elif fields[0] == "Rss:" and is_text:
            found.append(int(fields[1]))
    assert found
    return sum(found)

PREPARE
assert ask() == 6 and resident_kb() > 0
pressure.shed()
print(resident_kb(), ask(), resident_kb() > 0)
"""


@pytest.mark.parametrize("prepare", ["", "pressure.prepare()"])
def test_pages_of_libraries_go_though_another_process_has_them_too(prepare: str) -> None:
    """Here this one. Those that the loader has written to stay, or nothing would work afterwards."""
    with sqlite3.connect(":memory:") as connection:
        assert connection.execute("select sum(value) from json_each('[1, 2, 3]')").fetchone() == (6,)
    result = run([sys.executable, "-c", SHED.replace("PREPARE", prepare)])
    assert result.returncode == 0 and result.stdout == "0 6 True\n", result


STAYS_LOCKED = """
from pathlib import Path
from blockstore.daemon.supervise import pressure

def unlocked():
    found, name = set(), ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split(None, 5)
        if not fields[0].endswith(":"):
            name = fields[5] if len(fields) == 6 else ""
        elif fields[0] == "VmFlags:" and name.startswith("/") and "lo" not in fields and "lf" not in line.split():
            found.add(name)
    return found

pressure.prepare()
before = unlocked()
pressure.shed()
print(before == unlocked() == set())
"""


def test_what_was_locked_is_locked_afterwards() -> None:
    result = run([sys.executable, "-c", STAYS_LOCKED])
    assert result.returncode == 0 and result.stdout == "True\n", result


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
