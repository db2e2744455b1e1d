"""An error in a daemon's log fails the test that caused it, however the log goes, unless the test announced it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from suitelab.identity import WORKSPACE_PREFIX

from tests.daemon.lab import PROJECT
from tests.daemon.logs import ENTRY_LINES, Logs, errors_of, unannounced

INFO = "2026-01-02 03:04:05,678 INFO blockstore.daemon: served the word ERROR\n"
ERROR = "2026-01-02 03:04:06,678 ERROR blockstore.daemon.lane.lane: reading file 3\n"
TRACEBACK = "Traceback (most recent call last):\n  File x\nKeyError: 3\n"


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    """Of a workspace with one state."""
    (tmp_path / "mnt.state").mkdir()
    made = Logs(lambda folder: [tmp_path / "mnt"])
    made.watch(tmp_path)
    return made


def write(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    (
        (INFO, []),
        (INFO + ERROR + INFO, [ERROR]),
        (ERROR.replace("ERROR", "CRITICAL"), [ERROR.replace("ERROR", "CRITICAL")]),
        (INFO + TRACEBACK + INFO, [INFO + TRACEBACK]),
        (ERROR + TRACEBACK + ERROR, [ERROR + TRACEBACK, ERROR]),
        (TRACEBACK, [TRACEBACK]),
        ("Fatal Python error: Segmentation fault\n", ["Fatal Python error: Segmentation fault\n"]),
    ),
)
def test_what_is_an_error(text: str, wanted: list[str]) -> None:
    assert errors_of(text) == [entry.rstrip() for entry in wanted]


def test_a_long_traceback_is_cut() -> None:
    (found,) = errors_of(ERROR + "Traceback (most recent call last):\n" + "  line\n" * 1000)
    assert found.count("\n") == ENTRY_LINES


def test_each_error_is_told_once(logs: Logs, tmp_path: Path) -> None:
    path = tmp_path / "mnt.state" / "daemon.log"
    write(path, INFO + ERROR)
    assert logs.errors() == [f"daemon.log: {ERROR.rstrip()}"] and logs.errors() == []
    write(path, INFO + ERROR.rstrip())
    assert logs.errors() == [], "a line without its end is not over"
    write(path, "\n")
    assert len(logs.errors()) == 1


def test_a_log_that_goes_is_read_still(logs: Logs, tmp_path: Path) -> None:
    state = tmp_path / "mnt.state"
    for move in (
        lambda: shutil.rmtree(state),
        lambda: state.rename(tmp_path / "elsewhere"),
        lambda: (state / "daemon.log").rename(state / "daemon.log.1"),
    ):
        state.mkdir(exist_ok=True)
        write(state / "daemon.log", INFO)
        logs.find()
        write(state / "daemon.log", ERROR)
        move()
        assert len(logs.errors()) == 1


def test_nobody_looks_into_a_mount(logs: Logs, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    write(tmp_path / "mnt" / "daemon.log", ERROR)
    assert logs.errors() == []


def test_a_file_system_of_a_state_is_not_kept_busy(logs: Logs, tmp_path: Path) -> None:
    place = Path("/dev/shm") if os.stat("/dev/shm").st_dev != tmp_path.stat().st_dev else Path("/tmp")
    if place.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    state = place / f"{WORKSPACE_PREFIX}logs-{os.getpid()}"
    state.mkdir()
    try:
        logs.watch(tmp_path, state)
        before = len(os.listdir("/proc/self/fd"))
        write(state / "daemon.log", ERROR)
        assert len(logs.errors()) == 1 and len(os.listdir("/proc/self/fd")) == before
    finally:
        shutil.rmtree(state)


def test_what_is_announced() -> None:
    assert unannounced([ERROR, INFO], [r"lane: reading file \d"]) == [INFO]
    assert unannounced([ERROR], []) == [ERROR]


CONFTEST = "from tests.conftest import lab, pytest_pyfunc_call"
TESTS = f"""
import pytest, shutil

def note(lab):
    (lab.path / "state").mkdir()
    with (lab.path / "state" / "daemon.log").open("a") as file:
        file.write({ERROR!r})

@pytest.mark.mount
def test_silent(lab): note(lab)

@pytest.mark.mount
@pytest.mark.logs("reading file [0-9]")
def test_announced(lab): note(lab)

@pytest.mark.mount
@pytest.mark.logs("another error")
def test_another(lab): note(lab)

@pytest.mark.mount
def test_deleted(lab):
    lab.open()
    note(lab)
    lab.close()

def test_at_the_end(lab): note(lab)

@pytest.mark.mount
def test_without(lab): pass
"""


@pytest.mark.long
def test_it_fails_the_test(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_sample.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  mount\n  logs\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{PROJECT}/scripts:{PROJECT}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = result.stdout.partition("short test summary")[2]
    for outcome, name in (
        ("FAILED", "silent"),
        ("PASSED", "announced"),
        ("FAILED", "another"),
        ("FAILED", "deleted"),
        ("ERROR", "at_the_end"),
        ("PASSED", "without"),
    ):
        assert f"{outcome} test_sample.py::test_{name}" in said, result.stdout
    assert "reading file 3" in result.stdout
