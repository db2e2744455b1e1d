"""The savings report as tables: what `status` and `analyze` show of store/accounting/report.py.

Two tables, each of which adds up from left to right: what the memory of the VMs consists of, and what the
host pays for it. Columns that a report does not have (`analyze` knows nothing resident, `status` tells no zeros
apart) are left out. Numbers are never cut off: where the terminal is too narrow, each volume becomes a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from blockstore.cli.output import Part
from blockstore.cli.types.sizes import compact_size, format_size
from blockstore.cli.views.natural_order import by_name
from blockstore.cli.views.table import Row, Table, fits, print_list, print_table
from blockstore.store.accounting.classes import CLASSES, RECORDS
from blockstore.store.accounting.report import HOST, Report

MEMORY_COLUMNS: Final = ("logical", "touched", *CLASSES)
COST_COLUMNS: Final = (
    "stored",
    "pool",
    "tables",
    "daemon_memory",
    "resident",
    "footprint",
    "touched",
    "nonzero",
    "saved",
    "saved_with_zeros",
)

MEMORY_TITLE: Final = f"Memory of the VMs: touched = {' + '.join(CLASSES)}"

_HEADINGS: Final = {"daemon_memory": "daemon", "nonzero": "not zero", "saved_with_zeros": "with zeros"}
_SHARES: Final = ("saved", "saved_with_zeros")
_TOTAL: Final = "total"


def print_savings(report: Report, width: int | None) -> None:
    """Prints both tables, and the records by mechanism, for a terminal of this width; None is no terminal."""
    present = report["total"].keys()
    costs = [key for key in COST_COLUMNS if key in present]
    paid = [key for key in HOST if key in present]
    cost_title = f"Cost to the host: footprint = {' + '.join(_heading(key) for key in paid)}"
    if "nonzero" in present:
        cost_title += "; saved is of what is not zero"
    tables = [_by_volume(report, MEMORY_TITLE, MEMORY_COLUMNS), _by_volume(report, cost_title, costs)]
    if all(fits(table, width) for table in tables):
        for table in tables:
            print_table(table, width)
    else:
        for name, figures in _volumes(report):
            print_list(name, _pairs(figures, (*MEMORY_COLUMNS, *costs)), width)
        print_list(_TOTAL, _pairs(report["total"], (*MEMORY_COLUMNS, *costs)), width)
    print_table(_by_mechanism(report["total"]), width)


def format_share(fraction: float) -> Part:
    """A saved share in per cent: green when it is one, red when it is a loss. A loss of many times is just that."""
    text = f"{100 * fraction:.1f} %" if fraction > -10 else "< -999 %"
    return Part(text, "green" if fraction > 0 else "red" if fraction < 0 else "")


def _by_volume(report: Report, title: str, keys: Iterable[str]) -> Table:
    keys = list(keys)
    rows = [Row(name, [_cell(key, figures[key]) for key in keys]) for name, figures in _volumes(report)]
    total = Row(_TOTAL, [_cell(key, report["total"][key]) for key in keys], is_bold=True)
    return Table(title, "", [_heading(key) for key in keys], rows, total)


def _by_mechanism(total: Mapping[str, Any]) -> Table:
    """The records in the pool: how many blocks of memory each kind stands for, and what it takes."""
    rows = []
    for name in RECORDS:
        size_bytes, blocks = total[f"stored_{name}"], total.get(f"{name}_blocks", 0)
        memory = format_size(total.get(name, 0)) if blocks else "-"
        per_block = f"{size_bytes / blocks:.0f} B" if blocks else "-"
        rows.append(Row(name, [Part(memory), Part(format_size(size_bytes)), Part(per_block)]))
    all_records = Row("all records", [Part(""), Part(format_size(total["stored"])), Part("")], is_bold=True)
    return Table("Stored, by mechanism", "", ("memory", "stored", "per block"), rows, all_records)


def _pairs(figures: Mapping[str, Any], keys: Iterable[str]) -> Iterator[tuple[str, Part]]:
    """One volume from top to bottom."""
    for key in dict.fromkeys(keys):
        yield _heading(key), format_share(figures[key]) if key in _SHARES else Part(format_size(figures[key]))


def _volumes(report: Report) -> list[tuple[str, Mapping[str, Any]]]:
    return by_name(report["volumes"])


def _cell(key: str, value: float) -> Part:
    """With a unit of its own: one for all would show 0.1 for many VMs where the total is large."""
    return format_share(value) if key in _SHARES else Part(compact_size(int(value)))


def _heading(key: str) -> str:
    return _HEADINGS.get(key, key)
