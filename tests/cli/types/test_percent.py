"""Per cent on the command line."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from blockstore.cli.types.number import Percent


@click.command()
@click.option("--part", type=Percent(0, 50))
def command(part: float) -> None:
    click.echo(part)


@pytest.mark.parametrize(("text", "number"), [("20", 20.0), ("20%", 20.0), ("0.5%", 0.5), ("0", 0.0)])
def test_with_or_without_the_sign(text: str, number: float) -> None:
    assert CliRunner().invoke(command, ["--part", text]).output == f"{number}\n"


@pytest.mark.parametrize("text", ["", "%", "20%%", "x", "nan", "nan%", "51%", "-1"])
def test_what_is_none(text: str) -> None:
    result = CliRunner().invoke(command, ["--part", text])
    assert result.exit_code == 2 and "--part" in result.output
