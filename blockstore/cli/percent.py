"""Numbers of per cent on the command line: 20, 0.5 or 20%."""

from __future__ import annotations

import math

import click

from blockstore.cli.number import within


class Percent(click.FloatRange):
    """A range of them, with or without the sign."""

    name = "percent"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value).removesuffix("%"))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number of per cent; write it as 20 or 0.5%", param, ctx)
        return within(self, number, param, ctx)
