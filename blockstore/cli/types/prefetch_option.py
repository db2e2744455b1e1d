"""The option of those commands that start VMs from a snapshot."""

from __future__ import annotations

import click

prefetch_option = click.option(
    "--prefetch/--no-prefetch",
    default=True,
    show_default=True,
    help="Read, while QEMU starts, what an earlier VM of the same origin has read first; the first one is watched.",
)
