"""Paths that click does not look at: a stat(2) on a mount whose daemon does not answer would wait for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem


class DirectoryType(click.ParamType):  # type: ignore[type-arg]  # older releases of click cannot subscript it
    """A directory, there or not. Completed by the shell."""

    name = "directory"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(str(value))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]


DIRECTORY: Final = DirectoryType()
