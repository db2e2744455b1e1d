"""Background work on idle cores: when cold encoders work, and when they are ended. A daemon's loop without a mount."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import trio

from blockstore.daemon.background import RATE_S, Background
from blockstore.daemon.idle_cores import IdleCores
from blockstore.daemon.options import MountOptions
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store
from tests.store.invariants import check_store
from tests.store.live import remembered_files
from tests.store.material import contents, near, put, text

__all__ = ["remembered_files"]

TEXTS = 900
LIMIT_BYTES = 64 << 20
END_S = 120.0
"""For what takes a second on a machine that is idle."""


class Idle(IdleCores):
    """So many cores, always."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.threads = threads

    def look(self, now_s: float, times_ns: object) -> float:
        return 0.0


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, b"".join(text(seed) for seed in range(TEXTS)))
    put(store, volume, volume.size_bytes, b"".join(near(text(seed), seed, 60) for seed in range(TEXTS)))
    yield store
    store.close()


class Daemon:
    """What a Background asks about its daemon."""

    def __init__(self, store: Store, idle_cores: int, cpu_percent: float = 50.0) -> None:
        self.has_waiting = self.is_stalled = False
        self.requests, self.requests_a_look = 0, 0
        options = MountOptions("/m", "/s", LIMIT_BYTES, background_cpu=cpu_percent, cold_after_s=0.0)
        self.background = Background(
            store,
            store.lock,
            options,
            lambda: self.has_waiting,
            self._requests,
            lambda: self.is_stalled,
            Idle(idle_cores),
        )

    def _requests(self) -> int:
        self.requests += self.requests_a_look
        return self.requests

    def figure(self, name: str) -> float:
        return float(self.background.figures()[name])

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(END_S):
            while not condition():
                await trio.sleep(0.001)

    def run(self, test: Callable[[], object]) -> None:
        """Runs the background work beside the test, and ends it."""

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.background.run)
                await test()  # type: ignore[misc]
                nursery.cancel_scope.cancel()

        trio.run(main)


def idle_threads() -> int:
    """Threads of this process at idle priority."""
    return sum(os.sched_getscheduler(int(thread)) == os.SCHED_IDLE for thread in os.listdir("/proc/self/task"))


def test_idle_cores_do_all_of_it_and_then_the_threads_end(store: Store) -> None:
    expected = contents(store, store.volumes[1])
    daemon = Daemon(store, 2)

    async def test() -> None:
        await daemon.until(lambda: daemon.figure("idle_cpu_s") > 0)
        await daemon.until(lambda: daemon.figure("tried_blocks") > TEXTS and not idle_threads())

    daemon.run(test)
    assert daemon.figure("cpu_s") > daemon.figure("idle_cpu_s") > 0
    assert daemon.figure("densified_blocks") > TEXTS / 2 and daemon.figure("saved_bytes") > 0
    assert contents(store, store.volumes[1]) == expected
    check_store(store, decode=True)


def test_without_idle_cores_it_is_done_within_the_budget(store: Store) -> None:
    daemon = Daemon(store, 0)

    async def test() -> None:
        await daemon.until(lambda: daemon.figure("tried_blocks") > TEXTS)

    daemon.run(test)
    assert daemon.figure("cpu_s") > 0 and daemon.figure("idle_cpu_s") == 0 and not idle_threads()


def test_while_vms_ask_for_much_cold_encoders_have_no_work(store: Store) -> None:
    daemon = Daemon(store, 2, cpu_percent=100)
    daemon.requests_a_look = 10**9

    async def test() -> None:
        await daemon.until(lambda: daemon.figure("tried_blocks") > 0)

    trio.run(trio.sleep, 1.1 * RATE_S)  # so that the first look has a rate
    daemon.run(test)
    assert daemon.figure("idle_cpu_s") == 0 and not idle_threads()


@pytest.mark.parametrize("reason", ("has_waiting", "is_stalled", "off"))
def test_what_stops_it(store: Store, reason: str) -> None:
    """Threads end when it is off, or writes wait; while requests wait nothing is picked or published."""
    daemon = Daemon(store, 2)

    def stop(is_on: bool) -> None:
        if reason == "off":
            daemon.background.cpu_percent = 0 if is_on else 50
        else:
            setattr(daemon, reason, is_on)

    async def test() -> None:
        await daemon.until(lambda: daemon.figure("tried_blocks") > 0)
        stop(True)
        if reason == "has_waiting":
            await trio.sleep(0.05)
        else:
            await daemon.until(lambda: not idle_threads())
        tried = daemon.figure("tried_blocks")
        assert tried < 2 * TEXTS
        await trio.sleep(0.05)
        assert daemon.figure("tried_blocks") == tried
        stop(False)
        await daemon.until(lambda: daemon.figure("tried_blocks") > tried)

    daemon.run(test)
    assert not idle_threads()
    check_store(store, decode=True)


def test_an_error_ends_the_work_and_the_threads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon(store, 1)

    def fail(*_: object) -> bool:
        raise ValueError("a test")

    async def test() -> None:
        await daemon.until(lambda: daemon.figure("tried_blocks") > 0)
        monkeypatch.setattr(store.recompression, "begin", fail)
        await daemon.until(lambda: daemon.background.cpu_percent == 0 and not idle_threads())

    daemon.run(test)
