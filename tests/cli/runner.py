"""The command line within the process of the test, by click's runner: a new Python takes half a second to start, and
what is refused is known at once."""

from __future__ import annotations

import subprocess
import sys

from click.testing import CliRunner

from blockstore.cli.main import COMMANDS, main

for entry in COMMANDS.values():  # here, and not in the process of each test that is marked `mount`
    entry.load()


def invoke(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line through `main`, which makes a sentence and an exit code of each error that is written for
    users; raises what `main` lets through, which would be a traceback for them."""
    command = list(map(str, arguments))
    with CliRunner(env=environment).isolation() as (output, errors, _):
        code = main(command)
        sys.stderr.flush()
        return subprocess.CompletedProcess(command, code, output.getvalue().decode(), errors.getvalue().decode())
