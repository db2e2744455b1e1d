"""`blockstore report`: where the memory is, now and since the mount was made, as a page for a browser."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

import click

from blockstore import version
from blockstore.cli.output import say_bytes
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.views import health
from blockstore.cli.views.report_charts import MINIMUM_SAMPLES, ending_with
from blockstore.cli.views.report_page import Facts, page
from blockstore.daemon.host import mounts
from blockstore.errors import InputError
from blockstore.vm.observe import history
from blockstore.vm.observe.observe import observe

SUFFIXES: Final = (".html", ".htm")

STDOUT: Final = "-"


@click.command()
@click.argument("mountpoint", type=DIRECTORY, required=False)
@click.option("-o", "--output", required=True, metavar="FILE.html", help="Where to write it; - is stdout.")
def report(mountpoint: Path | None, output: str) -> None:
    """Write a page about the mount at MOUNTPOINT (or the only one there is): where the memory is, by VM and
    mechanism, now and over time since the mount was made.

    The page is one HTML file that needs no network, for browsers and printers. A file that is there is replaced.

    \b
    Example:
      blockstore report /run/vm-memory -o report.html
    """
    if output != STDOUT and Path(output).suffix.lower() not in SUFFIXES:
        raise InputError(f"the report is HTML: {output} should end in .html, or be - for stdout")
    text = _make(mounts.find(mountpoint)).encode()
    if output == STDOUT:
        say_bytes(text)
    else:
        _replace(Path(output), text)


def _make(mount: mounts.Mount) -> str:
    found, answer = observe(mount)
    now_s = time.time()
    samples = history.read(mount.state, found["total"]["mounted_at"])
    if len(samples) >= MINIMUM_SAMPLES:
        samples = ending_with(samples, history.sample_of(found, now_s))
    facts = Facts(
        mountpoint=str(mount.path),
        machine=os.uname().nodename,
        machine_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        version=version(),
        taken_s=now_s,
        warnings=[*health.missing(found["total"]), *health.judge(answer).sentences],
    )
    return page(found, samples, facts)


def _replace(path: Path, data: bytes) -> None:
    """Whoever reads the file sees the old or the new one, never a part. Raises InputError."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
