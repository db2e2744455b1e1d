"""Addresses on the command line."""

from __future__ import annotations

import pytest

from blockstore.cli.types.address import parse_address


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("127.0.0.1:9180", ("127.0.0.1", 9180)),
        ("[::1]:9180", ("::1", 9180)),
        ("[0:0:0:0:0:0:0:1]:9180", ("::1", 9180)),
        (":9180", ("", 9180)),
        ("localhost:65535", ("localhost", 65535)),
        ("vm-host.example.org:1", ("vm-host.example.org", 1)),
        (" 127.0.0.1:9180 ", ("127.0.0.1", 9180)),
    ],
)
def test_addresses(text: str, wanted: tuple[str, int]) -> None:
    assert parse_address(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        *("", "9180", "localhost", "127.0.0.1:", ":0", ":65536", ":99999999999", ":-1", ":+1", "a:b", ":٣"),
        *("::1:9180", "[::1]", "[::1:9180", "[localhost]:9180", "[]:9180", "[1.2.3.4]:9180"),
        *("http://localhost:9180", "localhost:9180/metrics", "me@host:9180", "a b:9180", "localhost:9180:1"),
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no address|has no ") as caught:
        parse_address(text)
    assert repr(text) in str(caught.value) and "\n" not in str(caught.value)
