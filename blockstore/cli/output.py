"""What the command line prints: the one place where text goes out, escaped. (click.echo is forbidden elsewhere, ruff.)

Lines are for people: whatever is in a name cannot move the cursor, colour the screen or begin a line of its own. JSON
is for programs: names that are not UTF-8 are escaped there, and no two keys become one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import click

from blockstore.printable import distinct, in_utf8, printable


class Part(NamedTuple):
    """Of a line, in a colour of click's (`green`), or `bold`, or as it is."""

    text: str
    style: str = ""


def say(line: str = "", *, err: bool = False) -> None:
    """Prints a line to stdout, or stderr."""
    click.echo(printable(line), err=err)


def warn(sentence: str) -> None:
    """Prints a warning to stderr; the command goes on."""
    say(f"blockstore: warning: {sentence}", err=True)


def complain(sentence: str) -> None:
    """Prints to stderr why the command ends."""
    say(f"blockstore: {sentence}", err=True)


def say_in_colour(parts: Iterable[Part]) -> None:
    """Prints a line of parts; without colours where nobody sees them, or wants them (no-color.org)."""
    click.echo("".join(map(_coloured, parts)), color=False if os.environ.get("NO_COLOR") else None)


def say_bytes(data: bytes) -> None:
    """Prints what is written for programs, as it is."""
    click.echo(data, nl=False)


def print_json(value: Any) -> None:
    """Prints what programs read, in ASCII."""
    as_it_is = json.dumps(value, ensure_ascii=False)  # in C: to look at each text takes as long as all the rest
    click.echo(json.dumps(value if in_utf8(as_it_is) == as_it_is else _in_utf8(value), indent=2))


def _in_utf8(value: Any) -> Any:
    if isinstance(value, str):
        return in_utf8(value)
    if isinstance(value, dict):
        return dict(zip(distinct(map(str, value)), map(_in_utf8, value.values()), strict=True))
    if isinstance(value, list | tuple):
        return [_in_utf8(each) for each in value]
    return value


def _coloured(part: Part) -> str:
    text = printable(part.text)
    if not part.style:
        return text
    return click.style(text, bold=True) if part.style == "bold" else click.style(text, fg=part.style)
