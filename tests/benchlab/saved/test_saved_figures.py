"""The figures of a set of guests, and their targets, from cells made of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from benchlab.figures import Figure
from benchlab.saved import saved_figures
from benchlab.saved.saved_cells import Cell
from benchlab.saved.saved_cost import Sample
from benchlab.saved.saved_progress import Progress

EVERY_S = 3.0


def cell(system: str, *savings: float, load_ended: float = 0.0, **requests: Progress) -> Cell:
    """Looked at every three seconds."""
    samples = [Sample(EVERY_S * n, 1000, {"resident": round(1000 * (1 - s))}, {"vm": 1}) for n, s in enumerate(savings)]
    return Cell(system, samples, requests, load_ended=load_ended)


def named(figures: Sequence[Figure], name: str) -> Figure:
    (found,) = [figure for figure in figures if figure.name == name]
    return found


def test_targets_of_the_end() -> None:
    cells = {each.system: each for each in (cell("store", 0.8), cell("ksm", 0.5), cell("ksm+zram", 0.6))}
    figures = saved_figures.figures("alike", cells, quick=False)
    assert named(figures, "alike: store / KSM").value == pytest.approx(1.6)
    share = named(figures, "alike: footprint, store / KSM and zram together")
    assert share.value == pytest.approx(0.5) and share.verdict == "short"
    assert named(figures, "alike: store").verdict == "short"
    assert named(saved_figures.figures("different", cells, quick=False), "different: store").verdict == "met"
    assert not named(figures, "alike: ksm").verdict


def test_what_was_left_out_has_no_figure_and_quick_no_target() -> None:
    cells = {each.system: each for each in (cell("store", 0.6), cell("nothing", -0.01))}
    names = [figure.name for figure in saved_figures.figures("idle", cells, quick=False)]
    assert names == ["idle: load's end to nine tenths, store", "idle: store", "idle: nothing"]
    quick = saved_figures.figures("idle", cells | {"ksm": cell("ksm", 0.3)}, quick=True)
    assert [figure.verdict for figure in quick] == [""] * 3


def test_settled_is_where_nothing_falls_back_any_more() -> None:
    #                      0    3    6    9    12   15   18   21
    found = cell("store", 0.1, 0.8, 0.2, 0.7, 0.5, 0.75, 0.8, 0.82, load_ended=3.5)
    assert found.saved == pytest.approx(0.79)
    assert saved_figures.settled_s(found) == pytest.approx(15.0 - 3.5)
    assert saved_figures.settled_s(cell("store", 0.8, 0.8, 0.8, 0.8, load_ended=4.0)) == pytest.approx(2.0)


@pytest.mark.parametrize(("samples", "verdict"), [(16, "met"), (17, "short")])
def test_target_of_the_way(samples: int, verdict: str) -> None:
    cells = {"store": cell("store", *[0.1] * (samples - 1), *[0.8] * 5)}
    found = named(saved_figures.figures("idle", cells, quick=False), "idle: load's end to nine tenths, store")
    assert found.value == EVERY_S * (samples - 1) and found.verdict == verdict


def test_requests_are_compared_guest_by_guest() -> None:
    plain = cell("nothing", 0.0, a=Progress(((0.0, 0), (10.0, 100))), b=Progress(((0.0, 0), (40.0, 4))))
    store = cell("store", 0.0, a=Progress(((0.0, 0), (20.0, 100))), b=Progress(((0.0, 0), (40.0, 4))))
    # a had answered all after 10 s on plain memory, and half of them then on the store; b is as quick on both.
    assert saved_figures.requests_share(store, plain) == pytest.approx(0.75)
    title = "alike: requests in the first 20 s, store / plain memory"
    found = named(saved_figures.figures("alike", {"store": store, "nothing": plain}, quick=False), title)
    assert found.verdict == "short"


def test_guests_without_a_load_have_no_requests() -> None:
    plain = cell("nothing", 0.0, a=Progress())
    assert saved_figures.requests_share(cell("store", 0.0, a=Progress()), plain) is None
