"""The table of volumes for lanes: what lanes find in it is tested in test_lane.py."""

from __future__ import annotations

import sys

import pytest

from blockstore.plane.tables.block_map import BlockMap
from blockstore.plane.tables.volumes import VolumeTable


def test_a_number_is_entered_once_until_it_is_removed() -> None:
    table = VolumeTable()
    table.enter(7, BlockMap())
    for number in (0, 7):
        with pytest.raises(ValueError):
            table.enter(number, BlockMap())
    table.remove(7)
    table.remove(7)
    table.enter(7, BlockMap())


def test_the_table_keeps_maps_as_long_as_they_can_be_found() -> None:
    table, block_map = VolumeTable(), BlockMap()
    alone = sys.getrefcount(block_map)
    for number in range(1, 1000):  # the table grows several times
        table.enter(number, block_map)
    assert sys.getrefcount(block_map) == alone + 999
    for number in range(1, 1000):
        table.remove(number)
    assert sys.getrefcount(block_map) == alone


def test_without_lanes_nobody_is_waited_for() -> None:
    VolumeTable().settle()
