"""What the tests tell the run that they are part of (scripts/suitelab), and how busy the machine was at each failure.

Only pytest knows these things, and its processes end: files in the run's folder are what remains.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from suitelab import machine
from suitelab.notes import VARIABLE, Notes, Result

SECTION = "machine when it failed"


class Load:
    """Adds a section to the report of each failure."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            report.sections.append((SECTION, machine.load()))
        return report


class Noting:
    """Writes notes for the run."""

    def __init__(self, notes: Notes, config: pytest.Config) -> None:
        self._notes = notes
        self._option = config.option
        self._is_worker = hasattr(config, "workerinput")

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Counts the tests that are left to scripts/nightly. With -k there are others, which were not meant."""
        left = sum(item.get_closest_marker("nightly") is not None for item in items)
        if left and not self._option.keyword and "not nightly" in self._option.markexpr:
            self._notes.leave_to_nightly(left)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes failures, and what ended well. The workers' reports come to the process that started them."""
        if self._is_worker or not (report.failed or report.when == "call"):
            return
        load = dict(report.sections).get(SECTION) or machine.load()
        self._notes.add(Result(report.nodeid, not report.failed, load))


def register(config: pytest.Config) -> None:
    """Adds the plugins: `Noting` only in a run of the suite."""
    config.pluginmanager.register(Load())
    if folder := os.environ.get(VARIABLE):
        config.pluginmanager.register(Noting(Notes(Path(folder)), config))
