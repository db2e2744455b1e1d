"""The order in which names are listed: as people count, vm2 before vm10."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeVar

_NUMBER: Final = re.compile(r"([0-9]+)")

Key = tuple[list[tuple[int, str]], str]
Value = TypeVar("Value")


def by_name(named: Mapping[str, Value]) -> list[tuple[str, Value]]:
    """Returns names and values in the order of the names."""
    return sorted(named.items(), key=lambda item: natural(item[0]))


def natural(name: str) -> Key:
    """Returns what to sort names by. Numbers are compared by their digits, of which there may be any number."""
    parts = _NUMBER.split(name)  # every other one is a number
    bare = (part.lstrip("0") if place % 2 else part for place, part in enumerate(parts))
    return [(len(part) if place % 2 else 0, part) for place, part in enumerate(bare)], name
