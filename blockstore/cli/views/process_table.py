"""The table of a mount's own processes in `status`: what each of them takes of the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from blockstore.cli.output import Part
from blockstore.cli.types.sizes import format_size
from blockstore.cli.views.table import Row, Table, print_table

_HEADINGS: Final = ("process", "memory", "processor time", "of that, cold")


def print_processes(total: Mapping[str, Any], width: int | None) -> None:
    """Nothing, if the daemon does not tell: it may be older than this code."""
    processes: Mapping[str, Mapping[str, Any]] | None = total["processes"]
    if not processes:
        return
    cold = {"daemon": total["background"]["cpu_s"]}
    rows = [Row(name, _cells(process, cold.get(name))) for name, process in processes.items()]
    memory = sum(process["memory"] for process in processes.values())
    processor_s = sum(process["processor_s"] for process in processes.values())
    cells = [Part(""), Part(format_size(memory)), Part(_seconds(processor_s)), Part("")]
    print_table(Table("Processes of the mount", "", _HEADINGS, rows, Row("all processes", cells, is_bold=True)), width)


def _cells(process: Mapping[str, Any], cold_s: float | None) -> list[Part]:
    return [
        Part(str(process["pid"])),
        Part(format_size(process["memory"])),
        Part(_seconds(process["processor_s"])),
        Part("-" if cold_s is None else _seconds(cold_s)),
    ]


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s"
