"""Segments of a pass of re-encoding: which are chosen, against a model in Python, and what is noted of them."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.moves.cold_segments import ColdSegments

NOW_S = 100.0


class Segment(NamedTuple):
    """One line of the table of segments."""

    generation: int
    has_memory: bool
    is_retired: bool
    full_generation: int
    full_since_s: float
    first_look: int
    second_look: int


GENERATIONS = st.integers(0, 3)
LOOKS = st.integers(-1, 3)
SEGMENTS = st.lists(
    st.builds(
        Segment,
        GENERATIONS,
        st.sampled_from((True, True, True, False)),
        st.sampled_from((False, False, False, True)),
        LOOKS,
        st.sampled_from((0.0, 50.0, 90.0, 100.0)),
        LOOKS,
        LOOKS,
    ),
    max_size=40,
)
ONE = Segment(1, True, False, 1, 0.0, -1, -1)


class Table:
    """The columns as arrays."""

    def __init__(self, segments: list[Segment]) -> None:
        self.generation = array("q", [segment.generation for segment in segments])
        self.has_memory = array("B", [segment.has_memory for segment in segments])
        self.is_retired = array("B", [segment.is_retired for segment in segments])
        self.full_generation = array("q", [segment.full_generation for segment in segments])
        self.full_since_s = array("d", [segment.full_since_s for segment in segments])
        self.first_look = array("q", [segment.first_look for segment in segments])
        self.second_look = array("q", [segment.second_look for segment in segments])

    def look(self, cold: ColdSegments, head: int = -1, spare: int = -1) -> None:
        cold.look(self.generation, _bytes(self.has_memory), _bytes(self.is_retired), head, spare)


def _bytes(column: array[int]) -> memoryview:
    return memoryview(column)


def are_full(segments: list[Segment], head: int, spare: int) -> list[int]:
    return [
        number
        for number, segment in enumerate(segments)
        if segment.has_memory and not segment.is_retired and number not in (head, spare)
    ]


@given(SEGMENTS, st.integers(-1, 40), st.integers(-1, 40), st.sampled_from((0.0, 60.0, 100.0)), st.integers(0, 5))
def test_segments_are_chosen_as_by_a_model(
    segments: list[Segment], head: int, spare: int, latest_s: float, most: int
) -> None:
    table, cold = Table(segments), ColdSegments()
    table.look(cold, head, spare)
    assert cold.count == len(segments) and not cold.numbers()
    full = are_full(segments, head, spare)

    cold.note_full(table.full_generation, table.full_since_s, NOW_S)
    for number, segment in enumerate(segments):
        is_new = number in full and segment.full_generation != segment.generation
        assert table.full_generation[number] == (segment.generation if is_new else segment.full_generation)
        assert table.full_since_s[number] == (NOW_S if is_new else segment.full_since_s)

    old = [number for number in full if table.full_since_s[number] <= latest_s]
    first = [number for number in old if segments[number].first_look != segments[number].generation]
    assert cold.choose_first(table.first_look, table.full_since_s, latest_s) == len(first)
    assert cold.numbers() == first

    second = [
        number
        for number in old
        if segments[number].first_look == segments[number].generation != segments[number].second_look
    ][:most]
    chosen = cold.choose_second(table.first_look, table.second_look, table.full_since_s, latest_s, most)
    assert chosen == len(second) and cold.numbers() == second

    cold.finish(table.second_look)
    assert list(table.second_look) == [
        segment.generation if number in second else segment.second_look for number, segment in enumerate(segments)
    ]


@given(SEGMENTS, st.integers(-1, 40))
def test_all_of_them(segments: list[Segment], head: int) -> None:
    table, cold = Table(segments), ColdSegments()
    table.look(cold, head)
    cold.choose_all()
    assert cold.numbers() == list(range(len(segments)))
    cold.finish(table.first_look)
    full = are_full(segments, head, -1)
    assert list(table.first_look) == [
        segment.generation if number in full else -1 for number, segment in enumerate(segments)
    ]


def test_the_table_grows_between_two_passes_and_within_one() -> None:
    cold = ColdSegments()
    Table([ONE] * 3).look(cold)
    longer = Table([ONE] * 5000)
    cold.choose_all()
    cold.finish(longer.first_look)
    assert list(longer.first_look[:4]) == [1, 1, 1, -1], "what was no segment when the pass began is not done"
    longer.look(cold)
    assert cold.choose_first(longer.first_look, longer.full_since_s, 0.0) == 4997
    Table([]).look(cold)
    assert not cold.count and not cold.numbers()


def test_columns_of_other_lengths_and_types_are_refused() -> None:
    cold, table = ColdSegments(), Table([ONE] * 3)
    with pytest.raises(ValueError, match="columns of 3, 2 and 3 segments"):
        cold.look(table.generation, bytes(2), bytes(3), -1, -1)
    table.look(cold)
    cold.choose_all()
    short, short_s, fine, fine_s = array("q", [0, 0]), array("d", [0.0]), array("q", [-1] * 3), array("d", [0.0] * 3)
    with pytest.raises(ValueError, match="a column of 2 segments, of which 3 were looked at"):
        cold.note_full(short, fine_s, 0.0)
    with pytest.raises(ValueError, match="a column of 1 segments"):
        cold.note_full(fine, short_s, 0.0)
    with pytest.raises(ValueError, match="a column of 2 segments"):
        cold.choose_first(short, fine_s, 0.0)
    with pytest.raises(ValueError, match="a column of 2 segments"):
        cold.choose_second(fine, short, fine_s, 0.0, 1)
    with pytest.raises(ValueError, match="a column of 2 segments"):
        cold.finish(short)
    with pytest.raises(ValueError, match="mismatch"):
        cold.finish(fine_s)  # type: ignore[arg-type]
    assert list(fine) == [-1] * 3 and cold.numbers() == [0, 1, 2]
