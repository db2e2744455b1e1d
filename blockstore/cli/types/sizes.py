"""Sizes as people write them (512M, 2GiB) and read them (316.2 MiB). All units are binary: K is 1024."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

import click

if TYPE_CHECKING:
    IntegerParameter: TypeAlias = click.ParamType[int]
else:  # older releases of click have the same class, but it cannot be subscripted
    IntegerParameter = click.ParamType

_UNITS: Final = "KMGTPE"
_PATTERN: Final = re.compile(rf"(\d{{1,20}}(?:\.\d{{1,20}})?)\s*(?:([{_UNITS}])i?)?B?", re.ASCII | re.IGNORECASE)

LARGEST_BYTES: Final = (1 << 63) - 1
"""What a file offset can be."""


class SizeType(IntegerParameter):
    """A size on the command line, as a number of bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # a default
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE: Final = SizeType()


def parse_size(text: str) -> int:
    """Bytes of "4096", "512M", "64KiB", "1.5g". Raises ValueError with a sentence."""
    found = _PATTERN.fullmatch(text.strip())
    if not found:
        raise ValueError(f"'{text}' is not a size; write it as 4096, 512M, 1.5G or 2GiB")
    from fractions import Fraction  # 5 ms, which only a command with a size needs

    number, unit = found.groups()
    exact = Fraction(number) * 1024 ** (_UNITS.index(unit.upper()) + 1 if unit else 0)
    if not unit and exact.denominator != 1:
        raise ValueError(f"'{text}' is a fraction of a byte; did you forget the unit, as in {text.strip()}G?")
    if exact > LARGEST_BYTES:
        raise ValueError(f"'{text}' is too large; the most is 8E less one byte")
    return int(exact)


def format_size(size_bytes: int) -> str:
    """For people: the largest unit in which it is at least 1, with one decimal ("316.2 MiB", "512 B")."""
    if abs(size_bytes) < 1024:
        return f"{size_bytes} B"
    scaled = float(size_bytes)
    for unit in _UNITS:
        scaled /= 1024
        if abs(scaled) < 1023.95:  # above it one decimal shows 1024.0
            return f"{scaled:.1f} {unit}iB"
    return f"{scaled:.1f} {unit}iB"


def compact_size(size_bytes: int) -> str:
    """A size in five letters at most, with three digits of it: 0, 512B, 1.50K, 12.0M, 1023M. K is 1024."""
    if size_bytes < 1000:
        return f"{size_bytes}B" if size_bytes else "0"
    scaled = float(size_bytes)
    for unit in _UNITS:
        scaled /= 1024
        if scaled < 1023.5 or unit == "E":
            break
    digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{digits}f}{unit}"


def counted(number: int, word: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {word}{'' if number == 1 else 's'}"
