"""Numbers on the command line, refused in a sentence that says what is wrong with them. click calls a word "no valid
integer range", and lets nan into any range."""

from __future__ import annotations

import math

import click


class WholeNumber(click.IntRange):
    """A number of things."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(str(value))
        except ValueError:
            self.fail(f"'{value}' is no whole number", param, ctx)
        return int(_within(self, number, param, ctx))


class _Decimal(click.FloatRange):
    """A finite number in a range, with or without the sign that stands for its unit."""

    sign = ""
    what = ""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value).removesuffix(self.sign))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"'{value}' is no {self.what}", param, ctx)
        return _within(self, number, param, ctx)


class Seconds(_Decimal):
    """A time."""

    name = "seconds"
    what = "number of seconds; write it as 10 or 0.5"


class Percent(_Decimal):
    """A part: 20, 0.5 or 20%."""

    name = "percent"
    sign = "%"
    what = "number of per cent; write it as 20 or 0.5%"


def _within(
    kind: click.IntRange | click.FloatRange, number: float, param: click.Parameter | None, ctx: click.Context | None
) -> float:
    """Returns the number if it is in the range of its kind, and fails as click does otherwise."""
    if kind.min is not None and number < kind.min:
        kind.fail(f"{number:g} is too small; the least is {kind.min:g}", param, ctx)
    if kind.max is not None and number > kind.max:
        kind.fail(f"{number:g} is too large; the most is {kind.max:g}", param, ctx)
    return number
