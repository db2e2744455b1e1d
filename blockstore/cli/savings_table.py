"""The savings report as tables: what `status` and `analyze` show of store/report.py.

Two tables, each of which adds up from left to right: what the memory of the VMs consists of, and what the
host pays for it. Columns that a report does not have (`analyze` knows nothing resident) are left out. Numbers
are never cut off: where the terminal is too narrow, each volume becomes a list.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import IO, Any, Final

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from blockstore.cli.sizes import format_size
from blockstore.printable import printable
from blockstore.store.classes import CLASSES, RECORDS
from blockstore.store.report import Report

MEMORY_COLUMNS: Final = ("logical", "touched", *CLASSES)
COST_COLUMNS: Final = (
    "stored",
    "pool",
    "tables",
    "daemon_memory",
    "resident",
    "footprint",
    "touched",
    "saved",
)

MEMORY_TITLE: Final = f"Memory of the VMs: touched = {' + '.join(CLASSES)}"

REDIRECTED_WIDTH: Final = 500
"""Columns where nobody looks at a terminal: wide enough for any name, so that nothing is folded."""

NAME_WIDTH: Final = 12
"""To this width names are folded before the tables give way to lists."""

_HEADINGS: Final = {"daemon_memory": "daemon"}
_TOTAL: Final = "total"


def make_console(stream: IO[str] | None = None) -> Console:
    """A console for stdout (or `stream`): colour and width of the terminal, if it is one; NO_COLOR counts."""
    stream = stream or sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else REDIRECTED_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def print_savings(report: Report, console: Console) -> None:
    """Both tables, and the records by mechanism."""
    present = report["total"].keys()
    costs = [key for key in COST_COLUMNS if key in present]
    paid = [key for key in ("pool", "tables", "daemon_memory", "resident") if key in present]
    cost_title = f"Cost to the host: footprint = {' + '.join(_heading(key) for key in paid)}"
    tables = [
        _by_volume(report, MEMORY_TITLE, MEMORY_COLUMNS),
        _by_volume(report, cost_title, costs),
        _by_mechanism(report["total"]),
    ]
    longest_name = max(cell_len(printable(name)) for name, _ in _lines(report))
    if all(_fits(table, longest_name, console) for table in tables[:2]):
        print_tables(tables, console)
        return
    for name, figures in _lines(report):
        print_tables([_list(name, figures, (*MEMORY_COLUMNS, *costs))], console)
    print_tables(tables[2:], console)


def print_tables(tables: Iterable[Table], console: Console) -> None:
    """Tables below each other, an empty line after each."""
    for table in tables:
        console.print(table)
        console.print()


def new_table(title: str, first_heading: str, headings: Iterable[str]) -> Table:
    """A table of numbers: a first column of names, which may be folded, and right-aligned columns."""
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first_heading, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def format_share(fraction: float) -> Text:
    """A saved share in per cent: green when it is one, red when it is a loss. A loss of many times is just that."""
    text = f"{100 * fraction:.1f} %" if fraction > -10 else "< -999 %"
    return Text(text, style="green" if fraction > 0 else "red" if fraction < 0 else "")


def _by_volume(report: Report, title: str, keys: Iterable[str]) -> Table:
    keys = list(keys)
    divisor, unit = _scale(report["total"])
    table = new_table(title, unit, [_heading(key) for key in keys])
    lines = list(_lines(report))
    for name, figures in lines:
        cells = [_cell(key, figures[key], divisor) for key in keys]
        is_total = name is _TOTAL
        table.add_row(Text(printable(name)), *cells, style="bold" if is_total else "")
        if len(lines) > 1 and name is lines[-2][0]:
            table.add_section()
    return table


def _by_mechanism(total: Mapping[str, Any]) -> Table:
    """The records in the pool: how many blocks of memory each kind stands for, and what it takes."""
    table = new_table("Stored, by mechanism", "", ("memory", "stored", "per block"))
    for name in RECORDS:
        size_bytes, blocks = total[f"stored_{name}"], total.get(f"{name}_blocks", 0)
        memory = format_size(total.get(name, 0)) if blocks else "-"
        per_block = f"{size_bytes / blocks:.0f} B" if blocks else "-"
        table.add_row(name, memory, format_size(size_bytes), per_block)
    table.add_section()
    table.add_row("all records", "", format_size(total["stored"]), "", style="bold")
    return table


def _list(name: str, figures: Mapping[str, Any], keys: Iterable[str]) -> Table:
    """One volume from top to bottom."""
    table = Table(title=Text(printable(name)), title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for key in dict.fromkeys(keys):
        value = figures[key]
        cell = format_share(value) if key == "saved" else Text(format_size(value))
        table.add_row(_heading(key), cell)
    return table


def _lines(report: Report) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Volumes in the order of their names, then the total."""
    yield from sorted(report["volumes"].items())
    yield _TOTAL, report["total"]


def _cell(key: str, value: float, divisor: int) -> Text:
    return format_share(value) if key == "saved" else Text(f"{value / divisor:,.1f}")


def _heading(key: str) -> str:
    return _HEADINGS.get(key, key)


def _scale(total: Mapping[str, Any]) -> tuple[int, str]:
    """One unit for a whole table, so that its columns can be compared: the total has two to seven digits."""
    for shift, unit in ((10, "KiB"), (20, "MiB")):
        if total["logical"] < 10_000_000 << (shift - 10):
            return 1 << shift, unit
    return 1 << 30, "GiB"


def _fits(table: Table, longest_name: int, console: Console) -> bool:
    """Would the table show all its numbers uncut, with its first column folded to NAME_WIDTH if need be?"""
    unlimited = console.options.update(width=REDIRECTED_WIDTH)
    wanted = Measurement.get(console, unlimited, table).maximum - max(longest_name - NAME_WIDTH, 0)
    return wanted <= console.width
