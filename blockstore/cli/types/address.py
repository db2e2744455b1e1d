"""Addresses as people write them: HOST:PORT, [IPV6]:PORT, or :PORT for all addresses of this machine."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING, Final, TypeAlias

import click

if TYPE_CHECKING:
    AddressParameter: TypeAlias = click.ParamType[tuple[str, int]]
else:  # older releases of click have the same class, but it cannot be subscripted
    AddressParameter = click.ParamType

_PATTERN: Final = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<host>[^\[\]:/@\s]*)):(?P<port>\d{1,5})", re.ASCII)

LARGEST_PORT: Final = 65535


class AddressType(AddressParameter):
    """An address to listen at on the command line, as host and port; the host is empty for all addresses."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        try:
            return parse_address(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


ADDRESS: Final = AddressType()


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:9180", "[::1]:9180", "localhost:9180", ":9180". Raises ValueError with a sentence."""
    found = _PATTERN.fullmatch(text.strip())
    if not found:
        raise ValueError(f"'{text}' is no address with a port; write it as 127.0.0.1:9180, [::1]:9180 or :9180")
    port = int(found["port"])
    if not 1 <= port <= LARGEST_PORT:
        raise ValueError(f"'{text}' has no port that can be listened at; ports are 1 to {LARGEST_PORT}")
    if found["six"] is None:
        return found["host"], port
    try:
        return str(IPv6Address(found["six"])), port
    except AddressValueError:
        raise ValueError(f"'{text}' has no IPv6 address in its brackets; write it as [::1]:9180") from None
