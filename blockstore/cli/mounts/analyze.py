"""`blockstore analyze`: what would the store save on memory images that exist already?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from blockstore.analysis import analyze as analysis
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
    "--cold", is_flag=True, help="Show as well what is stored once all of it is cold (encoded anew with zstd)."
)
@click.option("--verify", is_flag=True, help="Read everything back from the store and compare it with the images.")
def analyze(images: tuple[str, ...], as_json: bool, no_patch: bool, cold: bool, verify: bool) -> None:
    """What would the store save on these memory images?

    An IMAGE is the raw memory of one VM: a file that backs its memory, the output of QEMU's `pmemsave`,
    or any file of such bytes; or an ELF core of it (`virsh dump --memory-only`, `dump-guest-memory`).
    What is compressed, saved by `virsh save`, a disk or a program is refused. The images are put into a
    store in memory, in one sharing domain, without a mount; that takes as much memory as what is stored
    of them. Holes of sparse files are memory that the VM never touched and are not counted; zeros that
    are written out are. Memory is compared in blocks of 4 KiB; a last incomplete one is filled up with
    zeros. Pipes and standard input cannot be analyzed.

    Beside the store stands what others would store of the same blocks: sharing of identical pages alone (KSM)
    and compression alone (zram with lz4, in steps of 64 bytes), each without its own tables.

    \b
    Example:
      virsh qemu-monitor-command vm1 --hmp pmemsave 0 0x20000000 /var/tmp/vm1.ram
      blockstore analyze /var/tmp/vm1.ram /var/tmp/vm2.ram /var/tmp/vm3.ram

    \b
    Keys of --json: {"volumes": {NAME: {...}}, "total": {...}}, with, in bytes:
      logical, touched, zero, shared, patched, compressed, dense, raw, paged (0; each but
      the first also as KEY_blocks), stored, stored_shared, stored_patched, stored_compressed,
      stored_dense, stored_raw, stored_paged, stored_references, pool, tables, footprint (pool + tables),
      saved (1 - footprint/touched), bytes (= touched), blocks (= touched_blocks);
      in total also ksm_bytes, zram_bytes, both_bytes, stored_no_patch, with --cold stored_cold.
    NAME is the file's name, or the path as given where several have the same.
    """
    with _progress_bar() as progress:
        report = analysis.analyze(images, patching=not no_patch, cold=cold, verify=verify, progress=progress)
    if as_json:
        print_json(report)
        return
    width = terminal_width()
    print_savings(report, width)
    print_table(_comparison(report, patching=not no_patch), width)
    if verify:
        say("Verified: every image reads back from the store as it is.")


def _comparison(report: Report, *, patching: bool) -> Table:
    total = report["total"]
    rows = [
        ("as it is", total["bytes"]),
        ("identical pages shared (KSM)", total["ksm_bytes"]),
        ("each page compressed (zram lz4)", total["zram_bytes"]),
        ("both", total["both_bytes"]),
        ("blockstore without patches", total["stored_no_patch"]),
    ]
    if patching:
        rows.append(("blockstore", total["stored"]))
    if "stored_cold" in total:
        rows.append(("blockstore, all of it cold", total["stored_cold"]))
    footprint = total["footprint"]
    return Table(
        "The same blocks, stored otherwise",
        "",
        ("bytes", "", "saved"),
        [Row(name, _cells(size_bytes, saved(total["touched"], size_bytes))) for name, size_bytes in rows],
        Row("blockstore with its pool and tables", _cells(footprint, total["saved"]), is_bold=True),
    )


def _cells(size_bytes: int, share: float) -> list[Part]:
    return [Part(f"{size_bytes:,}"), Part(format_size(size_bytes)), format_share(share)]


@contextmanager
def _progress_bar() -> Iterator[analysis.Progress | None]:
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
