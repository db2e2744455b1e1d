"""When the next daemon is started."""

from __future__ import annotations

from blockstore.daemon.supervise.backoff import DELAYS_S, PAUSE_S, QUICK_DEATH_S, count, delay_s


def test_the_first_death_costs_nothing() -> None:
    assert delay_s(count(0, served_s=3600)) == 0
    assert delay_s(count(0, served_s=0)) == 0


def test_quick_deaths_in_a_row_are_waited_for_longer_and_longer_then_paused() -> None:
    deaths, delays = 0, []
    for _ in range(len(DELAYS_S) + 2):
        deaths = count(deaths, served_s=QUICK_DEATH_S / 2)
        delays.append(delay_s(deaths))
    assert delays == [*DELAYS_S, PAUSE_S, PAUSE_S] and delays == sorted(delays)


def test_a_daemon_that_served_begins_anew() -> None:
    assert count(50, served_s=QUICK_DEATH_S) == 0
