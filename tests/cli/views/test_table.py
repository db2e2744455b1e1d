"""Tables for terminals: nothing of a number is cut, whatever names are like; units, order."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.cli.output import Part
from blockstore.cli.views.natural_order import natural
from blockstore.cli.views.savings_table import print_savings
from blockstore.cli.views.table import LOOSE_NAME_WIDTH, NAME_WIDTH, Row, Table, cells_of, fits, print_table
from blockstore.store.accounting.classes import CLASSES, RECORDS


def table(*names: str) -> Table:
    rows = [Row(name, [Part("1.00G"), Part("99.9 %", "green")]) for name in names]
    return Table("Memory", "", ("touched", "saved"), rows, Row("total", [Part("2.00G"), Part("-")], is_bold=True))


def printed(shown: Table, width: int | None, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_table(shown, width)
    return capsys.readouterr().out.splitlines()


def test_a_long_name_is_folded_and_its_numbers_stay(capsys: pytest.CaptureFixture[str]) -> None:
    shown = table("vm1", "n" * 100, "漢字" * 30)
    width = NAME_WIDTH + len("   touched    saved")
    assert fits(shown, width) and not fits(shown, width - 1)
    lines = printed(shown, width, capsys)
    assert max(map(cells_of, lines)) <= width
    assert sum(line.endswith("1.00G   99.9 %") for line in lines) == 3
    assert "".join(lines).count("n") == 100 and "".join(lines).count("漢") == 30


def test_without_a_terminal_a_long_name_moves_its_own_numbers_only(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(table("vm1", "n" * 5000), None, capsys)
    assert any(line.startswith("n" * 5000) and line.endswith("1.00G   99.9 %") for line in lines)
    assert sorted(map(len, lines))[-2] == LOOSE_NAME_WIDTH + len("   touched    saved")


def test_a_byte_and_its_escape_are_two_names(capsys: pytest.CaptureFixture[str]) -> None:
    names = [os.fsdecode(b"a\xff"), "a\\xff"]
    for width in (None, 80, NAME_WIDTH + len("   touched    saved")):
        lines = "\n".join(printed(table(*names), width, capsys))
        assert "\na\\xff " in lines and "\na\\\\xff " in lines, lines


def report(count: int) -> dict[str, Any]:
    keys = ("logical", "touched", *CLASSES, "stored", "pool", "tables", "daemon_memory", "resident", "footprint")
    one: dict[str, Any] = dict.fromkeys(keys, 100 << 20) | {f"stored_{name}": 0 for name in RECORDS} | {"saved": 0.5}
    volumes = {f"vm{number}": dict(one) for number in range(count)}
    return {"volumes": volumes, "total": {key: value * count for key, value in one.items()}}


def test_a_unit_for_each_cell_and_the_order_in_which_people_count(capsys: pytest.CaptureFixture[str]) -> None:
    """One unit for a table showed 0.1 for each of many VMs."""
    print_savings(report(200), 120)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    memory = [line for line in lines if line and line[0].startswith("vm")][:200]
    assert [line[0] for line in memory] == [f"vm{number}" for number in range(200)]
    assert all(line[1:] == ["100M"] * (2 + len(CLASSES)) for line in memory)
    assert next(line for line in lines if line[:1] == ["total"])[1] == "19.5G"


@pytest.mark.parametrize(
    "names",
    ["vm1 vm2 vm10 vm10a vm100", "a/vm9 a/vm10 b/vm1", "1 02 2 3", "a a1 a1b2 a1b10 b", "vm007 vm7 vm08"],
)
def test_natural_order(names: str) -> None:
    assert sorted({*names.split()}, key=natural) == names.split()


@given(st.lists(st.text("ab019/\udcff") | st.sampled_from(["7" * 5000, "0" * 5000]), unique=True))
def test_any_names_have_an_order(names: list[str]) -> None:
    assert all(natural(before) < natural(after) for before, after in pairwise(sorted(names, key=natural)))
