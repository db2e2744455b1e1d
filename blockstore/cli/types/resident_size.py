"""How much of a VM stays resident: the options of all commands that start or attach one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from blockstore.cli.types.number import Percent
from blockstore.cli.types.sizes import SIZE, format_size, parse_size
from blockstore.daemon.control.attachments import AUTO, Residency
from blockstore.errors import InputError
from blockstore.vm.memory.policy import FLOOR_BYTES


class ResidentType(click.ParamType):  # type: ignore[type-arg]  # older releases of click cannot subscript it
    """Bytes, or AUTO."""

    name = "size|auto"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, int) or value == AUTO:
            return value if isinstance(value, int) else AUTO
        try:
            size_bytes = parse_size(str(value))
        except ValueError:
            self.fail(f"'{value}' is neither a size, as in 256M, nor auto", param, ctx)
        if size_bytes < FLOOR_BYTES:
            self.fail(f"'{value}' is too small; the least is {FLOOR_BYTES >> 20}M", param, ctx)
        return size_bytes


_OPTIONS = (
    click.option(
        "--resident",
        type=ResidentType(),
        default=AUTO,
        show_default=True,
        help="How much of the VM's memory stays uncompressed: a size, or as little as it can do with.",
    ),
    click.option(
        "--resident-min",
        type=SIZE,
        default=0,
        help=f"With auto: so much stays in any case (256M). Default: {FLOOR_BYTES >> 20}M.",
    ),
    click.option(
        "--target",
        type=Percent(min=0.01, max=50),
        default=1.0,
        show_default=True,
        metavar="PERCENT",
        help="With auto: how much of its time the VM may wait for memory to come back.",
    ),
)


def residency_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorates a command with the options, which it gets as `residency`."""

    @functools.wraps(command)
    def taking(*args: Any, resident: int | str, resident_min: int, target: float, **values: Any) -> None:
        if isinstance(resident, int) and resident_min > resident:
            raise InputError(
                f"--resident-min is more than the {format_size(resident)} of --resident; leave one of them out"
            )
        command(*args, residency=Residency(resident, target / 100, resident_min), **values)

    found: Callable[..., None] = taking
    for option in reversed(_OPTIONS):
        found = option(found)
    return found
