"""Sizes: what people write, and what they read."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from blockstore.cli.types.sizes import LARGEST_BYTES, SIZE, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("0", 0),
        ("64KiB", 64 << 10),
        ("64k", 64 << 10),
        ("64kb", 64 << 10),
        ("512M", 512 << 20),
        (" 512 MB ", 512 << 20),
        ("1.5g", 3 << 29),
        ("2GiB", 2 << 30),
        ("0.3G", 322122547),
        ("16T", 16 << 40),
    ],
)
def test_parses(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "1.5", "1,5G", "1e3", "5X", "5iB", "9E", "0x10", "M5", "1.G", "٣", "1" * 40]
)
def test_refuses_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a size|fraction of a byte|too large"):
        parse_size(text)


@click.command()
@click.option("--limit", type=SIZE, default=1 << 20)
def _command(limit: int) -> None:
    click.echo(limit)


def test_as_an_option() -> None:
    runner = CliRunner()
    assert runner.invoke(_command, ["--limit", "2G"]).output == f"{2 << 30}\n"
    assert runner.invoke(_command, []).output == f"{1 << 20}\n"
    refused = runner.invoke(_command, ["--limit", "lots"])
    assert refused.exit_code == 2 and "'lots' is not a size; write it as 4096, 512M" in refused.output


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (331_560_550, "316.2 MiB"),
        (-(3 << 20), "-3.0 MiB"),
        (5 << 60, "5.0 EiB"),
        (5000 << 60, "5000.0 EiB"),
    ],
)
def test_formats(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@given(st.integers(0, LARGEST_BYTES >> 1))
def test_what_is_formatted_can_be_parsed(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.06)
