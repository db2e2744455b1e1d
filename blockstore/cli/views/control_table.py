"""The table of VMs whose resident part is controlled, below the savings in `status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockstore.cli.output import Part
from blockstore.cli.types.sizes import format_size
from blockstore.cli.views.natural_order import by_name
from blockstore.cli.views.table import Row, Table, print_table
from blockstore.store.accounting.report import Report


def print_control(report: Report, width: int | None) -> None:
    """Nothing, if there is none."""
    found = [(name, each) for name, each in by_name(report["volumes"]) if each["controller"] is not None]
    if not found:
        return
    rows = [Row(name, _cells(figures)) for name, figures in found]
    headings = ("process", "attached", "wanted", "resident", "by", "refaults", "waiting")
    print_table(Table("Resident part, controlled", "", headings, rows), width)


def _cells(figures: Mapping[str, Any]) -> list[Part]:
    control = figures["controller"]
    wanted, share = control["wanted"], control["refault_share"]
    return [
        Part(str(control["pid"])),
        Part(control.get("attached_by") or "-"),
        Part(wanted if isinstance(wanted, str) else format_size(wanted)),
        Part(format_size(figures["resident"])),
        Part(control["mechanism"] or "-"),
        Part(f"{figures['refaults']:,}"),
        Part("-" if share is None else f"{100 * share:.2f} %"),
    ]
