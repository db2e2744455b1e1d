"""What a script of ours ends with: click's own way to end a process would leave out what is still to be undone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

INTERRUPTED_EXIT_CODE: Final = 130
"""128 + SIGINT, as shells have it."""


def exit_code_of(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments (None: the process's) as `name`. Returns the exit code."""
    try:
        result = command.main(arguments, prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED_EXIT_CODE
