"""How many cold encoders may have work: told by their own waits, at times that the test says."""

from __future__ import annotations

from itertools import pairwise

from blockstore.daemon.idle_cores import AGAIN_MOST_S, AGAIN_S, EVIDENCE_S, LOOK_S, WAITED_SHARE, IdleCores


class Machine:
    """Time goes by as the test says, and each encoder that may have work waits for a share of it."""

    def __init__(self, most: int) -> None:
        self.cores = IdleCores(most)
        self.now_s = 100.0
        self.times_ns = [(0, 0)] * most
        self.taken_s = 0.0
        self.look()

    def look(self) -> None:
        self.taken_s += self.cores.look(self.now_s, self.times_ns)

    def goes_on(self, *waited_shares: float, for_s: float = LOOK_S, worked: float = 1.0) -> int:
        """Each encoder waits for its share, while it has work for `worked` of the time. Returns how many may have work
        then."""
        until_s = self.now_s + for_s
        while self.now_s < until_s - 1e-9:
            self.now_s += LOOK_S + 1e-6
            for number, share in enumerate(waited_shares[: self.cores.threads]):
                wanted_ns, ran_ns = self.times_ns[number]
                more_ns = int(1e9 * LOOK_S * worked)
                self.times_ns[number] = wanted_ns + more_ns, ran_ns + int(more_ns * (1 - share))
            self.look()
        return self.cores.threads


def test_idle_cores_get_an_encoder_each_one_after_the_other() -> None:
    machine = Machine(3)
    assert machine.cores.threads == 1
    assert [machine.goes_on(0, 0.1, 0) for _ in range(4)] == [2, 3, 3, 3]
    assert machine.taken_s == 0


def test_one_that_waits_is_in_the_way() -> None:
    machine = Machine(2)
    assert machine.goes_on(0, 0) == 2
    assert machine.goes_on(0, WAITED_SHARE + 0.05) == 1
    assert 0.5 * LOOK_S < machine.taken_s < LOOK_S, "what it took until it was noticed"
    assert machine.goes_on(0.5) == 0
    assert machine.goes_on(for_s=AGAIN_S / 2) == 0


def test_little_waiting_is_none() -> None:
    machine = Machine(1)
    assert machine.goes_on(WAITED_SHARE - 0.01, for_s=1) == 1 and machine.taken_s == 0


def test_what_waits_all_the_time_has_taken_nothing() -> None:
    machine = Machine(1)
    assert machine.goes_on(1.0) == 0 and machine.taken_s == 0


def test_it_is_tried_again_and_more_and_more_seldom() -> None:
    """On a machine that stays busy, trials take less than a hundredth of a core."""
    machine = Machine(2)
    machine.goes_on(0.5)
    trials, before = [], machine.now_s
    while machine.now_s < before + 100:
        was = machine.cores.threads
        if machine.goes_on(0.5, 0.5) > was:
            trials.append(machine.now_s)
    pauses_s = [later - earlier for earlier, later in pairwise(trials)]
    assert AGAIN_S < trials[0] - before < 2 * AGAIN_S
    assert all(later > 1.5 * earlier for earlier, later in pairwise(pauses_s[:3]))
    assert AGAIN_MOST_S < max(pauses_s) < AGAIN_MOST_S + 3 * LOOK_S
    assert machine.taken_s < 1.0


def test_when_the_core_is_idle_again_it_is_used_again_at_once() -> None:
    machine = Machine(1)
    for _ in range(4):
        assert machine.goes_on(0.5) == 0
        machine.goes_on(for_s=AGAIN_MOST_S)
    assert machine.cores.threads == 1 and machine.goes_on(0) == 1
    machine.goes_on(0.5)
    assert machine.goes_on(for_s=AGAIN_S + LOOK_S) == 1, "as at the first time"


def test_only_one_of_two_cores_is_idle() -> None:
    """The second encoder is tried now and then; the first one goes on all the time."""
    machine = Machine(2)
    found = [machine.goes_on(0, 0.5) for _ in range(2000)]
    assert set(found[1:]) == {1, 2} and found.count(2) < 0.02 * len(found)


def test_without_work_nothing_is_concluded() -> None:
    machine = Machine(1)
    assert machine.goes_on(1.0, worked=EVIDENCE_S / LOOK_S / 2) == 1
    more = Machine(2)
    assert more.goes_on(0, worked=EVIDENCE_S / LOOK_S / 2) == 1, "nor that there is room for one more"


def test_looks_that_come_too_soon_change_nothing() -> None:
    machine = Machine(1)
    machine.times_ns = [(10**9, 0)]
    for _ in range(5):
        machine.now_s += LOOK_S / 10
        machine.look()
    assert machine.cores.threads == 1


def test_there_may_be_none() -> None:
    machine = Machine(0)
    assert machine.goes_on(for_s=3 * AGAIN_MOST_S) == 0
