"""Numbers of per cent on the command line: 20, 0.5 or 20%."""

from __future__ import annotations

from typing import Any

import click


class Percent(click.FloatRange):
    """A range of them, with or without the sign."""

    name = "percent"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        bare: Any = value.removesuffix("%") if isinstance(value, str) else value
        number = float(super().convert(bare, param, ctx))
        if number != number:  # which is outside no range
            self.fail("nan is no number of per cent", param, ctx)
        return number
