"""What `--resident` may be: a size, or `auto`."""

from __future__ import annotations

import click

from blockstore.cli.sizes import parse_size
from blockstore.daemon.attachments import AUTO
from blockstore.vm.policy import FLOOR_BYTES


class ResidentType(click.ParamType):  # type: ignore[type-arg]  # older releases of click cannot subscript it
    """Bytes, or AUTO."""

    name = "size|auto"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, int) or value == AUTO:
            return value if isinstance(value, int) else AUTO
        try:
            size_bytes = parse_size(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither a size, as in 256M, nor auto", param, ctx)
        if size_bytes < FLOOR_BYTES:
            self.fail(f"{value!r} is too small; the least is {FLOOR_BYTES >> 20}M", param, ctx)
        return size_bytes


RESIDENT = ResidentType()

TARGET = click.FloatRange(min=0.01, max=50)
"""Per cent of a VM's time."""


def check_target(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    """click.FloatRange lets nan pass."""
    if value != value:
        raise click.BadParameter("nan is no number of per cent")
    return value
