"""The table of VMs whose resident part is controlled, below the savings in `status`."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from blockstore.cli.savings_table import new_table, print_tables
from blockstore.cli.sizes import format_size
from blockstore.printable import printable
from blockstore.store.report import Report


def print_control(report: Report, console: Console) -> None:
    """Nothing, if there is none."""
    controlled = {name: each for name, each in sorted(report["volumes"].items()) if each["controller"] is not None}
    if not controlled:
        return
    table = new_table("Resident part, controlled", "", ("process", "wanted", "resident", "by", "refaults", "waiting"))
    for name, figures in controlled.items():
        control = figures["controller"]
        wanted, share = control["wanted"], control["refault_share"]
        table.add_row(
            Text(printable(name)),
            str(control["pid"]),
            wanted if isinstance(wanted, str) else format_size(wanted),
            format_size(figures["resident"]),
            control["mechanism"] or "-",
            f"{figures['refaults']:,}",
            Text("-" if share is None else f"{100 * share:.2f} %"),
        )
    print_tables([table], console)
