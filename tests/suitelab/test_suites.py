"""Each test is in one suite, scripts/quick is a part of scripts/test, and an interrupted run leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from suitelab.suites import SUITES

from tests.daemon.lab import PROJECT, ended, until

MARKERS = ("mount", "guest", "alone", "nightly")


@pytest.mark.parametrize("marked", list(itertools.product((False, True), repeat=len(MARKERS))))
def test_each_test_runs_once(marked: tuple[bool, ...]) -> None:
    def chosen(expression: str) -> bool:
        """As pytest reads it: names, `not` and `and` mean the same in Python."""
        return bool(eval(expression, dict(zip(MARKERS, marked, strict=True))))

    test, nightly = SUITES["test"], SUITES["nightly"]
    assert sum(map(chosen, (test.together, test.alone, nightly.together, nightly.alone))) == 1
    assert chosen(test.together) or not chosen(SUITES["quick"].together)


SAMPLE = """
import pathlib, subprocess, time

def test_long():
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    place = pathlib.Path(__file__).with_name("pid")
    place.with_suffix(".new").write_text(str(process.pid))
    place.with_suffix(".new").rename(place)
    time.sleep(600)
"""

RUN = """
import pathlib, sys
from suitelab import cli, run, steps, suites

steps.PROJECT, run.GRACE_S = pathlib.Path(sys.argv.pop()), 0.0
suites.SUITES["one"] = suites.Suite("one", "", together="not nightly", checks=False)
sys.exit(cli.main())
"""


@pytest.mark.long
def test_interrupted(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = nightly\n")
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, "one", "-n", "0", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{PROJECT}/scripts:{PROJECT}", "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    place = tmp_path / "pid"
    try:
        until(place.exists, "the test runs")
        run.send_signal(signal.SIGTERM)
        output = run.communicate()[0]
    finally:
        run.kill()
    pid = int(place.read_text())
    assert run.returncode == 130 and f"left behind, and removed now: process {pid}: sleep 600" in output, output
    assert ended(pid) and not list(tmp_path.glob("blockstore-*")), "nor is its folder left"
