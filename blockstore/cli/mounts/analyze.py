"""`blockstore analyze`: what would the store save on memory images that exist already?"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from blockstore.analysis.analyze import analyze as measure
from blockstore.analysis.workbench import Progress as Told
from blockstore.cli.output import Part, print_json, say
from blockstore.cli.types.sizes import format_size
from blockstore.cli.views.savings_table import format_share, print_savings
from blockstore.cli.views.table import Row, Table, print_table, terminal_width
from blockstore.store.accounting.report import Report, saved


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, bytes as integers.")
@click.option("--no-patch", is_flag=True, help="Store without patches: share and compress only.")
@click.option(
    "--cold",
    is_flag=True,
    help="Show as well what each step gives and takes, up to all of it being cold (encoded anew with zstd).",
)
@click.option("--verify", is_flag=True, help="Read everything back from the store and compare it with the images.")
def analyze(images: tuple[str, ...], as_json: bool, no_patch: bool, cold: bool, verify: bool) -> None:
    """What would the store save on these memory images?

    An IMAGE is the raw memory of one VM: a file that backs its memory, the output of QEMU's `pmemsave`,
    or any file of such bytes; or an ELF core of it (`virsh dump --memory-only`, `dump-guest-memory`).
    What is compressed, saved by `virsh save`, a disk or a program is refused. The images are put into a
    store in memory, in one sharing domain, without a mount; that takes as much memory as what is stored
    of them. Memory is compared in blocks of 4 KiB; a last incomplete one is filled up with zeros. Pipes
    and standard input cannot be analyzed.

    Holes of sparse files are memory that the VM never touched and are not counted. Zeros that are written
    out are as a rule the same, and cost nothing today either: `saved` is of what is not zero. What it is of
    all, as `status` counts, stands beside it.

    Beside the store stands what others would store of the same blocks: sharing of identical pages alone (KSM)
    and compression alone (zram with lz4, in steps of 64 bytes), each without its own tables.

    --cold takes the steps of the store one after the other, for which it puts the images into a store three
    times: bytes that are left, in per cent of what is not zero, what the step gives of these, and the
    processor time of its own for each block that it looks at. Below 0 it spares more than it takes.

    \b
    Example:
      virsh qemu-monitor-command vm1 --hmp pmemsave 0 0x20000000 /var/tmp/vm1.ram
      blockstore analyze /var/tmp/vm1.ram /var/tmp/vm2.ram /var/tmp/vm3.ram

    \b
    Keys of --json: {"volumes": {NAME: {...}}, "total": {...}}, with, in bytes:
      logical, touched, zero, shared, patched, compressed, dense, raw, paged (0; each but
      the first also as KEY_blocks), stored, stored_shared, stored_patched, stored_compressed,
      stored_dense, stored_raw, stored_paged, stored_references, pool, tables, footprint (pool + tables),
      nonzero (touched - zero), saved (1 - footprint/nonzero), saved_with_zeros (1 - footprint/touched),
      bytes (= touched), blocks (= touched_blocks);
      in total also ksm_bytes, zram_bytes, both_bytes, stored_no_patch, with --cold stored_cold and steps:
      [{step, name, stored, saved_bytes, points (per cent of nonzero), blocks, cpu_us (for each)}, ...].
    NAME is the file's name, or the path as given where several have the same.
    """
    with _progress_bar() as progress:
        report = measure(images, patching=not no_patch, cold=cold, verify=verify, progress=progress)
    if as_json:
        print_json(report)
        return
    width = terminal_width()
    print_savings(report, width)
    print_table(_comparison(report, patching=not no_patch), width)
    if cold:
        print_table(_steps(report["total"]), width)
    if verify:
        say("Verified: every image reads back from the store as it is.")


def _comparison(report: Report, *, patching: bool) -> Table:
    total = report["total"]
    rows = [
        ("as it is, without zeros", total["nonzero"]),
        ("identical pages shared (KSM)", total["ksm_bytes"]),
        ("each page compressed (zram lz4)", total["zram_bytes"]),
        ("both", total["both_bytes"]),
        ("blockstore without patches", total["stored_no_patch"]),
    ]
    if patching:
        rows.append(("blockstore", total["stored"]))
    if "stored_cold" in total:
        rows.append(("blockstore, all of it cold", total["stored_cold"]))
    return Table(
        "The same blocks, stored otherwise; saved is of what is not zero",
        "",
        ("bytes", "", "saved", "with zeros"),
        [Row(name, _cells(total, size_bytes)) for name, size_bytes in rows],
        Row("blockstore with its pool and tables", _cells(total, total["footprint"]), is_bold=True),
    )


def _cells(total: Mapping[str, Any], size_bytes: int) -> list[Part]:
    shares = [format_share(saved(total[whole], size_bytes)) for whole in ("nonzero", "touched")]
    return [Part(f"{size_bytes:,}"), Part(format_size(size_bytes)), *shares]


def _steps(total: Mapping[str, Any]) -> Table:
    """What each step gives, and what it costs: sharing and LZ4 take time when memory is written, the others later."""
    nonzero, rows = total["nonzero"], []
    for step in total["steps"]:
        left = f"{100 * step['stored'] / nonzero:.1f} %" if nonzero else "-"
        cells = (
            *(f"{step['stored']:,}", left, f"{step['saved_bytes']:,}", f"{step['points']:.1f}"),
            *(f"{step['blocks']:,}", f"{step['cpu_us']:.1f}"),
        )
        rows.append(Row(step["name"], [Part(cell) for cell in cells]))
    whole = Row("not zero", [Part(text) for text in (f"{nonzero:,}", "100.0 %", "", "", "", "")])
    return Table(
        "Step by step: what is left, what the step gives, and its processor time",
        "",
        ("bytes left", "of all", "less", "points", "blocks", "us a block"),
        [whole, *rows],
        Row("all steps", [Part(""), Part(""), *_sums(total["steps"], nonzero), Part(""), Part("")], is_bold=True),
    )


def _sums(steps: Sequence[Mapping[str, Any]], nonzero: int) -> list[Part]:
    less = sum(step["saved_bytes"] for step in steps)
    return [Part(f"{less:,}"), Part(f"{100 * less / nonzero:.1f}" if nonzero else "-")]


@contextmanager
def _progress_bar() -> Iterator[Told | None]:
    """A bar on stderr, if that is a terminal, which is gone at the end."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("opening", total=None)
        yield lambda stage, done, in_all: bar.update(task, description=stage, completed=done, total=in_all)
