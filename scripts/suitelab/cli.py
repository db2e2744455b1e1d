"""The command lines of scripts/quick, scripts/test and scripts/nightly."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import click

from suitelab import sanitized
from suitelab.command_line import exit_code_of
from suitelab.run import Run
from suitelab.suites import SUITES, Suite

PREFIX = "blockstore-suite-"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def command(suite: Suite) -> click.Command:
    """Returns the command of this suite."""

    @click.command(
        name=suite.name,
        help=f"{suite.promise}\n\nArguments go to pytest: scripts/{suite.name} tests/store -k crash",
        context_settings={"help_option_names": ["-h", "--help"], "ignore_unknown_options": True},
    )
    @click.option(
        "--sanitize",
        is_flag=True,
        hidden=not suite.sanitized,
        help=f"Run {' and '.join(suite.sanitized)} over a core that AddressSanitizer and UBSan watch, and tests of "
        "threads over one that ThreadSanitizer does; no more.",
    )
    @click.option("-m", "marked", default="", metavar="MARKERS", help="Of these tests only those with such markers.")
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def run_suite(sanitize: bool, marked: str, arguments: tuple[str, ...]) -> int:
        if sanitize:
            if not suite.sanitized:
                raise click.UsageError("only scripts/test has --sanitize")
            if arguments:
                return sanitized.main(arguments)
            return sanitized.main(suite.sanitized) or sanitized.main(["--threads"])
        with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
            run = Run(suite, arguments, marked, Path(folder))
            run.all()
            return run.report()

    return run_suite


def interrupt(number: int, frame: FrameType | None) -> None:
    """Has a run that is to end remove what it made; a second signal does not keep it from that."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Runs the suite that the first argument names. Returns the exit code."""
    for number in SIGNALS:
        signal.signal(number, interrupt)
    suite = SUITES[sys.argv[1]]
    return exit_code_of(command(suite), f"scripts/{suite.name}", sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
