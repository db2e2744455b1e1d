"""A test that fails is run once more alone; both results are told, and it counts as failed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from suitelab import machine, reruns, steps
from suitelab.notes import Result
from suitelab.run import Run
from suitelab.suites import Suite

from tests.daemon.lab import PROJECT

pytestmark = pytest.mark.long

SUITE = Suite("one", "", together="not nightly", checks=False, quiet=True)

TESTS = """
import pathlib, pytest
TRACE = pathlib.Path(__file__).with_name("trace")

def test_well(): pass

def test_always(): assert False

@pytest.mark.parametrize("name", ["[a b]"])
def test_at_first(name):
    been = TRACE.exists()
    TRACE.touch()
    assert been

@pytest.fixture
def broken():
    yield
    assert False

def test_that_ends_badly(broken): pass

@pytest.mark.nightly
def test_at_night(): assert False
"""


CONFTEST = """
from tests import suite

def pytest_configure(config):
    suite.register(config)
"""

BUSY = r"\(load [0-9. ]+, PSI [^)]*\)"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of these tests."""
    (tmp_path / "test_sample.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = nightly\n")
    folder = tmp_path / "notes"
    folder.mkdir()
    monkeypatch.setattr(steps, "PROJECT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{PROJECT}/scripts:{PROJECT}")
    return Run(SUITE, ("-n", "0"), "", folder)


def test_both_results_are_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.all()
    assert run.report() == 1 and run.failed == ["pytest"]
    output = capsys.readouterr().out
    assert "machine when it failed" in output and "== 3 failed; once more" in output
    wanted = (("always", "failed"), ("at_first[[a b]]", "passed"), ("that_ends_badly", "failed"))
    for name, then in wanted:
        line = rf"test_sample.py::test_{re.escape(name)} failed {BUSY}, then {then} alone {BUSY}"
        assert re.search(line, output), output
    assert "test_at_night" not in output


def test_no_more_than_ten(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reruns, "TESTS", 1)
    failed = [Result(f"test_sample.py::test_{name}", False, "") for name in ("well", "always")]
    folder = tmp_path / "again"
    folder.mkdir()
    first, second = reruns.run_again(failed, {}, folder)
    assert "then passed alone" in first and "then it was not run again" in second


def test_no_longer_than_they_may(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reruns, "LIMIT_S", 0)
    folder = tmp_path / "again"
    folder.mkdir()
    (line,) = reruns.run_again([Result("test_sample.py::test_well", False, "")], {}, folder)
    assert "was not run again within 0 s" in line


def test_the_load_of_a_kernel_without_psi(tmp_path: Path) -> None:
    (tmp_path / "loadavg").write_text("0.50 1.00 2.00 1/100 4711\n")
    assert machine.load(tmp_path) == "load 0.50 1.00 2.00, PSI not known"
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "io").write_text("some avg10=1.25 avg60=0.00 avg300=0.00 total=9\nfull avg10=7.00\n")
    assert machine.load(tmp_path) == "load 0.50 1.00 2.00, PSI io 1.25/0.00 %"
