"""Tables of numbers for a terminal: a first column of names, which may be folded, and columns that are never cut.

Drawn here and not by rich, which takes longer for some hundred VMs than all else that `status` does.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from blockstore.cli.output import Part, say, say_in_colour
from blockstore.printable import Printable, printable

NAME_WIDTH: Final = 12
"""To this width names are folded before a table does not fit."""

LOOSE_NAME_WIDTH: Final = 40
"""Of the names' column where nobody looks at a terminal. A longer name is not folded there; it moves its own numbers,
and those of no other line."""

_GAP: Final = "   "


class Row(NamedTuple):
    """A name, and a cell for each column."""

    name: str
    cells: Sequence[Part]
    is_bold: bool = False


class Table(NamedTuple):
    """The `total` comes below a line; `heading` stands above the names."""

    title: str
    heading: str
    headings: Sequence[str]
    rows: Sequence[Row]
    total: Row | None = None


def terminal_width() -> int | None:
    """Returns how many cells a line of stdout has; None if it is no terminal."""
    try:
        is_terminal = os.isatty(sys.stdout.fileno())
    except (OSError, ValueError):  # a test's
        return None
    return shutil.get_terminal_size().columns if is_terminal else None


def fits(table: Table, width: int | None) -> bool:
    """Can all numbers be shown uncut, with names folded to NAME_WIDTH if need be?"""
    return width is None or min(_longest(table), NAME_WIDTH) + _numbers_width(_widths(table)) <= width


def print_table(table: Table, width: int | None) -> None:
    """Prints it, and an empty line."""
    for line in _lines(table, width):
        say_in_colour(line)
    say()


def print_list(title: str, pairs: Iterable[tuple[str, Part]], width: int | None) -> None:
    """Prints a name, and what there is to say of it from top to bottom; and an empty line."""
    pairs = list(pairs)
    for piece in _folded(title, width or LOOSE_NAME_WIDTH):
        say_in_colour([Part(piece, "bold")])
    left = max(len(word) for word, _ in pairs)
    right = max(len(part.text) for _, part in pairs)
    for word, part in pairs:
        say_in_colour([Part(f" {word.ljust(left)}{_GAP}{' ' * (right - len(part.text))}"), part])
    say()


def cells_of(text: str) -> int:
    """Returns how many cells of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # 20 ms, which only those with such names need

    return cell_len(text)


def _lines(table: Table, width: int | None) -> Iterator[list[Part]]:
    widths, longest = _widths(table), _longest(table)
    room = LOOSE_NAME_WIDTH if width is None else max(width - _numbers_width(widths), 1)
    names = min(longest, room)
    for line in textwrap.wrap(table.title, width or sys.maxsize):
        yield [Part(line, "bold")]
    yield []
    headings = [Part(heading) for heading in table.headings]
    yield _line(table.heading, headings, names, widths)
    rule = [Part("─" * (names + _numbers_width(widths)))]
    yield rule
    for row in table.rows:
        yield from _row(row, names, widths, must_fold=width is not None)
    if table.total is not None:
        yield rule
        yield from _row(table.total, names, widths, must_fold=width is not None)


def _row(row: Row, names: int, widths: Sequence[int], *, must_fold: bool) -> Iterator[list[Part]]:
    name = printable(row.name)
    first, *others = _folded(name, names) if must_fold else [name]
    cells = [Part(cell.text, cell.style or "bold") for cell in row.cells] if row.is_bold else row.cells
    yield _line(first, cells, names, widths, "bold" if row.is_bold else "")
    for piece in others:
        yield [Part(Printable(piece))]


def _line(name: str, cells: Iterable[Part], names: int, widths: Sequence[int], style: str = "") -> list[Part]:
    """A line of a `name` that is Printable, or a piece of one, and cells."""
    line = [Part(Printable(name + " " * (names - cells_of(name))), style)]
    for cell, width in zip(cells, widths, strict=True):
        line += [Part(_GAP + " " * (width - len(cell.text))), cell]
    return line


def _rows(table: Table) -> list[Row]:
    return [*table.rows, *([table.total] if table.total is not None else [])]


def _longest(table: Table) -> int:
    return max(cells_of(table.heading), *(cells_of(printable(row.name)) for row in _rows(table)))


def _widths(table: Table) -> list[int]:
    rows = _rows(table)
    return [
        max(len(heading), *(len(row.cells[place].text) for row in rows)) for place, heading in enumerate(table.headings)
    ]


def _numbers_width(widths: Sequence[int]) -> int:
    return sum(len(_GAP) + width for width in widths)


def _folded(text: str, width: int) -> list[str]:
    """The text in pieces of at most so many cells, none of which is empty; at least one."""
    if cells_of(text) <= width:
        return [text]
    from rich.cells import chop_cells

    return chop_cells(text, width)
