"""What `--resident` may be: a size, or `auto`."""

from __future__ import annotations

import click

from blockstore.cli.types.number import Percent
from blockstore.cli.types.sizes import parse_size
from blockstore.daemon.control.attachments import AUTO
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


RESIDENT = ResidentType()


target_option = click.option(
    "--target",
    type=Percent(min=0.01, max=50),
    default=1.0,
    show_default=True,
    metavar="PERCENT",
    help="With auto: how much of its time the VM may wait for memory to come back.",
)
