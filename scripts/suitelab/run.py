"""Runs a suite: its checks beside its tests, then the tests that must run alone, then its programs."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from suitelab.identity import VARIABLE
from suitelab.leftovers import GRACE_S, Leftovers
from suitelab.notes import Notes
from suitelab.reruns import run_again
from suitelab.steps import Command, started
from suitelab.suites import CHECKS, PYTEST, PYTEST_NOTHING, TOGETHER, Suite


class Run:
    """One run of a suite. `failed` has a line for each step that failed."""

    def __init__(self, suite: Suite, chosen: Sequence[str], marked: str, folder: Path) -> None:
        """`chosen` are arguments to pytest, `marked` is another condition on markers; logs go to `folder`."""
        self.failed: list[str] = []
        self._suite = suite
        self._chosen = list(chosen)
        self._marked = marked
        self._folder = folder
        self._notes = Notes(folder)
        word = secrets.token_hex(4)
        self._environment = {**self._notes.environment(), VARIABLE: word}
        self._leftovers = Leftovers(word)
        self._codes: list[int] = []
        self._begun_s = time.monotonic()

    def all(self) -> None:
        """Runs everything. When it is interrupted, too, nothing is left behind."""
        try:
            self._steps()
        finally:
            left = self._leftovers.take_away(GRACE_S)
            for thing in left:
                print(f"left behind, and removed now: {thing}", file=sys.stderr)
            if left:
                self.failed.append(f"{len(left)} things were left behind")

    def _steps(self) -> None:
        with ExitStack() as stack:
            checks = {
                name: stack.enter_context(started(arguments, self._environment, self._folder / f"{name}.log"))
                for name, arguments in (CHECKS.items() if self._suite.checks else ())
            }
            self._test("pytest", self._suite.together, TOGETHER)
            for name, command in checks.items():
                self._judge(name, command)
        if self._suite.alone:
            self._test("pytest, one at a time", self._suite.alone, ())
        self._again()
        if all(code == PYTEST_NOTHING for code in self._codes):
            self.failed.append(f"no test was chosen; those of scripts/{self._suite.name} are: {self._suite.together}")
        if not self._chosen and not self._marked:
            for program in self._suite.programs:
                self._step(program[0], program)

    def report(self) -> int:
        """Says what failed, or that nothing did. Returns the exit code."""
        seconds = time.monotonic() - self._begun_s
        left = self._notes.left_to_nightly()
        if self._suite.name == "test" and left:
            print(f"{left} tests are left to scripts/nightly")
        if self.failed:
            print("\n".join(f"failed: {line}" for line in self.failed), file=sys.stderr)
            return 1
        print(f"{self._suite.name}: all is well, {seconds:.0f} s")
        return 0

    def _again(self) -> None:
        """Runs what failed once more. It has failed, whatever comes of that."""
        if failed := self._notes.failed():
            folder = self._folder / "again"
            folder.mkdir()
            print(f"== {len(failed)} failed; once more, one at a time", flush=True)
            print("\n".join(run_again(failed, self._environment, folder)), flush=True)

    def _test(self, name: str, expression: str, options: Sequence[str]) -> None:
        if self._marked:
            expression = f"({expression}) and ({self._marked})"
        talk = ("--quiet",) if self._suite.quiet else ("--durations", "15", "--durations-min", "8")
        arguments = (*PYTEST, *options, *talk, *self._chosen, "-m", expression)
        self._codes.append(self._step(name, arguments, fine=(0, PYTEST_NOTHING)))

    def _step(self, name: str, arguments: Sequence[str], *, fine: Sequence[int] = (0,)) -> int:
        """Runs a command to its end. Returns the exit code."""
        if not self._suite.quiet:
            print(f"== {name}", flush=True)
        log = self._folder / f"{name}.log" if self._suite.quiet else None
        with started(arguments, self._environment, log) as command:
            return self._judge(name, command, fine=fine)

    def _judge(self, name: str, command: Command, *, fine: Sequence[int] = (0,)) -> int:
        """Waits for its end. What it wrote to its log is shown when it failed. Returns the exit code."""
        code = command.code()
        if code not in fine:
            self.failed.append(name)
            print(f"== {name}\n{command.said()}" if command.said() else "", end="", flush=True)
        return code
